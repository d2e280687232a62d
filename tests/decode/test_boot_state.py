"""The decoder asks instead of reading, stays within its bounds, and gives a reason for whatever it does not have."""

import dataclasses

import pytest

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import (
    MEMORY_MAP_BOUND,
    MODULE_BOUND,
    TEXT_BOUND,
    BootState,
    Text,
    Unread,
    decode,
)
from pvhdbg.model import Memory, NeedMemory, Snapshot, Unavailable
from pvhdbg.rules.examples import COMMAND_LINE, MODULE, RSDP, START_INFO, XSDT, at_entry
from pvhdbg.spec.revisions import V1
from pvhdbg.spec.start_info import ModuleEntry


def asked(snapshot: Snapshot) -> tuple[list[NeedMemory], BootState]:
    """Every request of the decoder, answered with zeros, and the state that it ends with."""
    requests = []
    while isinstance(state := decode(snapshot, V1), NeedMemory):
        requests.append(state)
        snapshot = dataclasses.replace(snapshot, memory=snapshot.memory.with_piece(state.address, bytes(state.size)))
    return requests, state


def test_it_asks_for_start_info_first_and_never_twice() -> None:
    snapshot = dataclasses.replace(at_entry().snapshot(), memory=Memory())
    requests, _ = asked(snapshot)
    assert requests[0].address == START_INFO
    places = [(request.address, request.size) for request in requests]
    assert len(places) == len(set(places))


def test_everything_is_decoded() -> None:
    info = at_entry().boot(V1).start_info
    assert (info.address, info.raw.version) == (START_INFO, 1)
    assert info.command_line == Text(COMMAND_LINE, b"console=ttyS0", True)
    assert not isinstance(info.modules, Unread)
    assert info.modules[0].entry == MODULE
    assert isinstance(info.rsdp, acpi.Rsdp)
    assert (info.rsdp.address, info.rsdp.revision, info.rsdp.xsdt_address) == (RSDP, 2, XSDT)
    assert not isinstance(info.root_tables, Unread)
    assert [table.sound for table in info.root_tables] == [True]


@pytest.mark.parametrize("count", [MODULE_BOUND + 1, 0xFFFFFFFF])
def test_module_counts_are_cut(count: int) -> None:
    requests, state = asked(at_entry(nr_modules=count).snapshot())
    assert not isinstance(state.start_info.modules, Unread)
    assert len(state.start_info.modules) == MODULE_BOUND
    assert max(request.size for request in requests) <= MODULE_BOUND * ModuleEntry.sizeof()


def test_memory_map_counts_are_cut() -> None:
    requests, state = asked(at_entry(memmap_entries=0xFFFFFFFF).snapshot())
    entries = state.start_info.memory_map
    assert entries is not None
    assert not isinstance(entries, Unread)
    assert len(entries) == MEMORY_MAP_BOUND
    assert sum(request.size for request in requests) < 1 << 20


def test_a_string_without_end_stops_at_the_bound() -> None:
    example = at_entry(cmdline_paddr=0x200000, memory={0x200000: b"A" * (TEXT_BOUND * 2)})
    line = example.boot(V1).start_info.command_line
    assert isinstance(line, Text)
    assert not line.terminated
    assert len(line.data) == TEXT_BOUND


def test_a_string_that_runs_out_of_memory_keeps_what_was_read() -> None:
    end = 0xA0000  # RAM ends here
    line = at_entry(cmdline_paddr=end - 4, memory={end - 4: b"abcd"}).boot(V1).start_info.command_line
    assert line == Text(end - 4, b"abcd", False)


def test_a_pointer_to_nowhere_is_never_read() -> None:
    requests, state = asked(at_entry(cmdline_paddr=0xB0000000, rsdp_paddr=0xFEE00000).snapshot())
    assert all(request.address < 0xA0000000 for request in requests)
    assert isinstance(state.start_info.command_line, Unread)
    assert isinstance(state.start_info.rsdp, Unread)


def test_a_hole_in_memory_is_a_reason() -> None:
    snapshot = at_entry(backing=None).snapshot()
    while isinstance(state := decode(snapshot, V1), NeedMemory):
        memory = snapshot.memory.with_hole(state.address, state.size, "E14")
        snapshot = dataclasses.replace(snapshot, memory=memory)
    tables = state.start_info.root_tables
    assert not isinstance(tables, Unread)


def test_memory_keeps_what_was_read_first() -> None:
    memory = Memory().with_piece(0x1000, b"old!").with_piece(0x0FFE, b"newnewnew")
    assert memory.read(0x1000, 4) == b"old!" or memory.read(0x0FFE, 9) == b"newnewnew"
    with pytest.raises(NeedMemory):
        memory.read(0x2000, 1)
    with pytest.raises(Unavailable, match="E14"):
        memory.with_hole(0x2000, 16, "E14").read(0x2008, 4)
    with pytest.raises(Unavailable, match="wrap"):
        memory.read((1 << 64) - 2, 4)
