"""long_mode: each step to 64-bit code is a symbol, and does one thing."""

from collections.abc import Callable
from typing import Any

import pytest

from pvhdbg.decode.qemu_monitor import cpu_state
from pvhdbg.spec.start_info import StartInfoV0
from pvhdbg.spec.x86 import CR0, CR4, EFER
from pvhdbg.targets.target import StopKind

Boot = Callable[..., Any]
STEPS = ("enable_pae", "load_cr3", "enable_lme", "enable_paging", "load_gdt", "far_jump", "in_long_mode")
PRINTED_STATUS = 33


def state(guest: Any) -> dict[str, int]:
    """What the steps change, in the order in which they do."""
    registers = guest.target.read_registers()
    segments = cpu_state(guest.target.monitor("info registers")).segments
    assert segments.gdt is not None
    return {
        "PAE": registers["cr4"] >> CR4["PAE"] & 1,
        "cr3": int(registers["cr3"] == guest.address("pml4")),
        "LME": registers["efer"] >> EFER["LME"] & 1,
        "PG": registers["cr0"] >> CR0["PG"] & 1,
        "gdt": int(segments.gdt.base == guest.address("gdt64")),
        "CS.L": segments["cs"].long,
    }


@pytest.mark.parametrize("machine", ["pc", "microvm"])
def test_every_step_changes_one_thing_and_the_last_code_prints_start_info(boot: Boot, machine: str) -> None:
    guest = boot("long_mode", machine=machine, append="one two")
    info = guest.capture().start_info
    seen = []
    for step in STEPS:
        guest.run_to(step)
        seen.append(state(guest))
    names = list(seen[0])
    assert [[one[name] for name in names] for one in seen] == [[1] * done + [0] * (6 - done) for done in range(7)]
    assert guest.target.read_registers()["efer"] >> EFER["LMA"] & 1
    status, lines = guest.finish()
    assert status == PRINTED_STATUS
    fields = [(field.name, field.size) for field in type(info.raw).fields()]
    assert lines == [f"{name} {getattr(info.raw, name):#0{2 + 2 * size}x}" for name, size in fields]
    assert len(lines) == 10


def test_of_version_0_only_its_own_fields_are_printed(boot: Boot) -> None:
    guest = boot("long_mode")
    info = guest.capture().start_info
    guest.target.write_memory(info.address + 4, bytes(4))
    status, lines = guest.finish()
    assert status == PRINTED_STATUS
    assert [line.split()[0] for line in lines] == [field.name for field in StartInfoV0.fields()]


def test_a_cpu_without_long_mode_dies_where_a_careless_kernel_would(boot: Boot) -> None:
    guest = boot("long_mode", cpu="qemu32", ends=False)
    guest.run_to("enable_lme")
    guest.target.resume()
    assert guest.target.wait(10).kind is StopKind.SHUTDOWN
    assert guest.address("enable_lme") < guest.target.read_registers()["rip"] < guest.address("in_long_mode")
    assert guest.qemu.serial_tail() == []
