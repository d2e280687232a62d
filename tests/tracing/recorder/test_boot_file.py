"""Saved boots: written, read back, damaged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.model import Hex
from pvhdbg.tracing.boot_file import BootInfo, Pieces, decode, encode
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recording_layout import PAGE, BlockRecord, ChapterRecord, Cpu
from pvhdbg.tracing.story import Started, functions, parting, profile
from tests.support.sorting import examples
from tests.tracing.recorder.test_recording import BLOCKS_AT, CHAPTERS_AT, COUNTS_AT, SIZE, Sparse, header

INFO = BootInfo("vmlinux", "00" * 32, "QEMU 7.2.22", ("qemu-system-x86_64", "-kernel", "vmlinux"), True, 1.5, "alive")
BLOCKS = [BlockRecord(0x1000 * index, 0x1000 * index, 10 * index, 3, 0x20, 0, 0, index - 1, 0, 0, 0) for index in range(1, 5)]
COUNTS = b"".join(index.to_bytes(8, "little") for index in range(1, 5))
RING = b"".join(index.to_bytes(4, "little") + (10 * index + 10).to_bytes(4, "little") for index in range(4))


def recording(blocks: list[BlockRecord] = BLOCKS) -> Sparse:
    cpu = Cpu(head=4, count=40, exact=0, repeats=0, idle=0, interrupted=0)
    head = header(block_count=len(blocks), base=0, entry=0x1000)
    return Sparse(
        {
            0: head.encode(),
            PAGE: cpu.encode(),
            2 * PAGE: RING,
            COUNTS_AT: COUNTS,
            BLOCKS_AT: b"".join(one.encode() for one in blocks),
            CHAPTERS_AT: ChapterRecord(20, 0x2000, 2).encode(),
            CHAPTERS_AT + PAGE: COUNTS[:16],
        }
    )


def name(physical: int) -> str | None:
    return None if physical >= 0x4000 else f"f{physical >> 12}+{physical & 0xFFF:#x}"


def test_what_is_saved_is_read_back() -> None:
    saved = b"".join(encode(INFO, recording()))
    assert len(saved) < 2000
    info, read = decode(saved)
    assert info == INFO
    assert [one.linear for one in read.first_executions()] == [0x1000, 0x2000, 0x3000, 0x4000]
    assert [one.number for one in read.last(0)] == [10, 20, 30, 40]
    assert (read.counts_before(20), read.counts_before(21), read.counts_now()) == ([1, 2], None, [1, 2, 3, 4])
    assert json.loads(saved.split(b"\n")[0])["schema"] == "pvhdbg/boot/1"


@given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4))
@settings(max_examples=examples(150), deadline=None)
def test_a_damaged_file_is_refused_or_read(at: int, change: bytes) -> None:
    saved = bytearray(b"".join(encode(INFO, recording())))
    at %= len(saved)
    saved[at : at + len(change)] = change
    try:
        _, read = decode(bytes(saved))
        read.first_executions()
        read.last(0)
        read.counts_before(20)
    except BadRecording:
        pass


@pytest.mark.parametrize("missing", [1, 40, 200, 10_000])
def test_a_cut_file_is_refused(missing: int) -> None:
    with pytest.raises(BadRecording):
        decode(b"".join(encode(INFO, recording()))[:-missing])


def test_parts_may_not_overlap() -> None:
    line, _, rest = b"".join(encode(INFO, recording())).partition(b"\n")
    head = json.loads(line)
    head["parts"][1][0] = 0
    with pytest.raises(BadRecording, match="overlap"):
        decode(json.dumps(head).encode() + b"\n" + rest)


def test_pieces_read_as_zeros_between() -> None:
    one = Pieces(SIZE, [(2, b"ab"), (6, b"cd")])
    assert one[0:9] == b"\0\0ab\0\0cd\0"
    assert one[2:4] == b"ab"


def test_functions_the_profile_and_where_two_boots_part() -> None:
    _, one = decode(b"".join(encode(INFO, recording())))
    firsts = functions(one.first_executions(), name)
    assert [(first.name, first.number) for first in firsts] == [("f1", 10), ("f2", 20), ("f3", 30)]
    assert profile(one.blocks(), name) == [("(no name)", 12), ("f3", 9), ("f2", 6), ("f1", 3)]
    assert parting(firsts, firsts).identical
    changed = [BLOCKS[0], BLOCKS[1].replace(physical=0x2000, first=21), *BLOCKS[2:]]
    _, other = decode(b"".join(encode(INFO, recording(changed))))
    parts = parting(firsts, functions(other.first_executions(), name))
    assert not parts.identical
    assert parts.shifted is not None
    assert (parts.index, parts.a, parts.shifted[1].number, parts.only_a, parts.only_b) == (3, (), 21, (), ())
    parts = parting(firsts, [firsts[0], firsts[2]])
    assert (parts.index, parts.common, parts.a[0].name, parts.only_a, parts.only_b) == (1, ("f1",), "f2", ("f2",), ())


def test_each_of_several_cpus_is_compared_by_its_own_count() -> None:
    """Two CPUs whose counts say nothing of each other: their functions in another order are no difference, one instruction is."""
    one = [Started(10, "a", Hex(0), None), Started(20, "b", Hex(0), None), Started(5, "c", Hex(0), None, None, 1)]
    assert parting(one, [one[2], one[0], one[1]]).identical
    assert parting(one, one).cpu is None
    found = parting(one, [*one[:2], one[2]._replace(number=6)])
    assert (found.cpu, found.index, found.only_a) == (1, 1, ())
    assert found.shifted == (one[2], one[2]._replace(number=6))
    found = parting(one, one[:2])
    assert (found.cpu, found.cpus, found.a, found.b, found.only_a) == (1, 2, (one[2],), (), ("c",))
    assert parting(one, [one[0], one[1]._replace(cpu=1), one[2]]).moved == ("b",)
    assert parting(one, [one[0]._replace(number=30), one[1], one[2]]).moved == ()
    assert parting([], []).identical
