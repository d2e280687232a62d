"""The recorder's file: its layout against the C compiler, and a reader that hostile bytes do not bring down. No QEMU."""

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.errors import BadInput
from pvhdbg.layout import Structure
from pvhdbg.model import Hex
from pvhdbg.tracing import recording_layout as layout
from pvhdbg.tracing.chapters import Chapter, runs_within
from pvhdbg.tracing.recent import recent
from pvhdbg.tracing.recorded_numbers import NEVER, BadRecording
from pvhdbg.tracing.recorded_registers import RegisterRows
from pvhdbg.tracing.recorder.file import open_recording
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import PAGE, RING, Cpu, Mark, RecordingHeader
from tests.support.sorting import examples

SOURCE = Path(layout.__file__).parent / "recorder" / "recorder.c"
STRUCTURES: dict[str, type[Structure]] = {
    "header": RecordingHeader,
    "mark": Mark,
    "cpu": Cpu,
    "discontinuity": layout.DiscontinuityRecord,
    "block": layout.BlockRecord,
    "system": layout.SystemRecord,
    "state": layout.StateRecord,
    "write": layout.WriteRecord,
    "chapter": layout.ChapterRecord,
}
COUNTS_AT = 2 * PAGE + RING * 8
STRIDE = PAGE + RING * 8 + layout.MOST_BLOCKS * 8
BLOCKS_AT = PAGE + STRIDE
SYSTEMS_AT = BLOCKS_AT + layout.MOST_BLOCKS * 48
STATES_AT = SYSTEMS_AT + layout.MOST_SYSTEMS * 64
WRITES_AT = STATES_AT + layout.MOST_STATES * 2048
REGISTERS_AT = WRITES_AT + layout.MOST_WRITES * 32
CODE_AT = REGISTERS_AT + layout.MOST_REGISTERS * 512
CHAPTERS_AT = CODE_AT + layout.MOST_BLOCKS * 4 + layout.MOST_CODE
SIZE = CHAPTERS_AT + PAGE + layout.MOST_CHAPTERS * layout.CHAPTER_BLOCKS * 8


class Sparse:
    """A file of SIZE zero bytes, with pieces written over it."""

    def __init__(self, pieces: dict[int, bytes], size: int = SIZE) -> None:
        self._pieces = pieces
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        data = bytearray(end - start)
        for at, piece in self._pieces.items():
            low, high = max(at, start), min(at + len(piece), end)
            if low < high:
                data[low - start : high - start] = piece[low - at : high - at]
        return bytes(data)


def header(**values: int | bytes) -> RecordingHeader:
    fields: dict[str, int | bytes] = dict.fromkeys((field.name for field in RecordingHeader.fields()), 0)
    fields |= {"magic": b"PVHDBGFR", "version": 4, "page": PAGE, "cpus": 1, "ring": RING, "cpu_offset": PAGE, "cpu_stride": STRIDE}
    fields |= {
        "block_offset": BLOCKS_AT,
        "system_offset": SYSTEMS_AT,
        "state_offset": STATES_AT,
        "write_offset": WRITES_AT,
        "register_offset": REGISTERS_AT,
        "code_offset": CODE_AT,
        "chapter_offset": CHAPTERS_AT,
        "size": SIZE,
    }
    return RecordingHeader(**{**fields, "entry": NEVER, "base": NEVER, **values})  # type: ignore[arg-type]


def test_the_layout_is_the_compilers(tmp_path: Path) -> None:
    lines = []
    for name, structure in STRUCTURES.items():
        lines += [
            f'printf("%zu ", offsetof(struct {name}, {field.name}));'
            for field in structure.fields()
            if field.name != "unused" and not field.name.startswith("before_")
        ]
    lines.append('printf("%zu %zu", sizeof(struct block), sizeof(struct system));')
    program, source = tmp_path / "offsets", tmp_path / "offsets.c"
    source.write_text(f'#include "{SOURCE}"\nint main(void) {{ {" ".join(lines)} return 0; }}\n')
    subprocess.run(["gcc", "-w", "-o", program, source], check=True)
    ours = [
        str(field.offset)
        for structure in STRUCTURES.values()
        for field in structure.fields()
        if field.name != "unused" and not field.name.startswith("before_")
    ]
    ours += [str(layout.BlockRecord.sizeof()), str(layout.SystemRecord.sizeof())]
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout.split() == ours


def test_the_source_makes_no_warning() -> None:
    words = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(SOURCE)]
    subprocess.run(words, check=True)


def test_numbers_are_made_whole_from_their_low_half() -> None:
    """Of each entry of the ring 32 bits are kept."""
    number = 3 << 32
    ring = b"".join(
        index.to_bytes(4, "little") + (low & 0xFFFFFFFF).to_bytes(4, "little") for index, low in [(0, number - 5), (1, number)]
    )
    cpu = Cpu(head=2, count=number + 3, exact=0, repeats=0, idle=0, interrupted=0)
    blocks = (
        layout.BlockRecord(0x1000, 0x1000, 7, 5, 9, 0, 0, 0, 0, 0, 0).encode()
        + layout.BlockRecord(0x2000, NEVER, 9, 3, 4, 0, 0, 1, 0, 0, 0).encode()
    )
    pieces = {0: header(block_count=2, base=1, entry=0x1000).encode(), PAGE: cpu.encode(), 2 * PAGE: ring, BLOCKS_AT: blocks}
    one = Recording(Sparse(pieces))
    assert [(run.number, run.block.linear, run.block.physical) for run in one.last(0)] == [
        (number - 5, 0x1000, 0x1000),
        (number, 0x2000, None),
    ]
    assert [block.first for block in one.first_executions()] == [7, 9]
    assert one.begun() == number + 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"magic": b"PVHDBGFX"}, "does not begin as"),
        ({"version": 1}, "version 1"),
        ({"cpus": 0}, "impossible"),
        ({"cpus": 1 << 31}, "impossible"),
        ({"marks": 65}, "impossible"),
        ({"block_offset": 0}, "do not lie"),
        ({"size": SIZE + 1}, "do not lie"),
    ],
)
def test_what_is_not_a_recording_is_refused(change: dict[str, int | bytes], why: str) -> None:
    with pytest.raises(BadRecording, match=why):
        Recording(Sparse({0: header(**change).encode()}))


def test_a_cut_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="it is cut"):
        Recording(Sparse({0: header().encode()}, SIZE - 1))
    path = tmp_path / "cut"
    path.write_bytes(header().encode())
    with pytest.raises(BadInput, match="it is cut"), open_recording(path):
        pass
    os.truncate(path, 3)
    with pytest.raises(BadInput, match="shorter"), open_recording(path):
        pass


@given(
    st.fixed_dictionaries(
        {name: st.integers(0, (1 << 32) - 1) for name in ("block_count", "system_count", "state_count", "write_count")}
        | {"marks": st.integers(0, 64), "base": st.integers(0, NEVER), "exact": st.integers(0, 1)}
        | {"register_count": st.integers(0, 200) | st.integers(0, NEVER), "register_waits": st.integers(0, 1)}
    ),
    st.dictionaries(
        st.sampled_from((PAGE, 2 * PAGE, BLOCKS_AT, SYSTEMS_AT, STATES_AT, WRITES_AT, REGISTERS_AT, CODE_AT, CHAPTERS_AT)),
        st.binary(max_size=512),
    ),
)
@settings(max_examples=examples(60), deadline=None)
def test_any_tables_are_read_within_their_bounds(values: dict[str, int], tables: dict[int, bytes]) -> None:
    one = Recording(Sparse({0: header(**values).encode(), **tables}))
    assert len(one.last(0, 100)) <= 100
    assert len(one.systems()) <= layout.MOST_SYSTEMS
    assert len(one.states()) <= layout.MOST_STATES
    assert all(len(state.text) < 2048 for state in one.states())
    assert len(one.writes()) <= layout.MOST_WRITES
    assert len(one.marks) == values["marks"]
    assert one.begun() >= -1
    assert all(len(one.code(executed.block)) in (0, executed.block.size) for executed in one.last(0, 100))
    start, records = one.registers(max(one.header.register_count - 100, 0))
    assert start <= one.header.register_count
    assert len(records) <= 100 * 512
    rows = RegisterRows()
    events = [*rows.feed(records), *rows.finish(None)]
    assert len(events) <= 100
    assert all(len(event.code) < 128 for event in events)
    recent(one, 0, 0, ())
    assert all(len(one.counts_before(number) or []) <= layout.CHAPTER_BLOCKS for number in (0, values["base"], -1))
    assert sum(size for _, size in one.parts()) <= SIZE
    part = Chapter("entry", 0, 1, Hex(0))
    assert [found is None or all(times > 0 for times in found.values()) for found in runs_within(one, [part, part])] == [True, True]


def test_what_a_chapter_executed_is_the_difference_of_two_copies() -> None:
    """Three chapters: the counts at the beginning of the second are there, those of the third are said to be too many."""
    blocks = b"".join(layout.BlockRecord(0x1000 * at, NEVER, at, 3, 9, 0, 0, 0, 0, 0, 0).encode() for at in range(1, 4))
    counts = [b"".join(one.to_bytes(8, "little") for one in row) for row in ((5, 6, 7), (2, 6))]
    records = [layout.ChapterRecord(10, 0x2000, 2), layout.ChapterRecord(20, 0x3000, layout.CHAPTER_BLOCKS + 1)]
    cpu = Cpu(head=18, count=54, exact=0, repeats=0, idle=0, interrupted=0)
    pieces = {
        0: header(block_count=3, base=0, entry=0x1000).encode(), PAGE: cpu.encode(), COUNTS_AT: counts[0], BLOCKS_AT: blocks,
        CHAPTERS_AT: b"".join(record.encode() for record in records), CHAPTERS_AT + PAGE: counts[1],
    }  # fmt: skip
    one = Recording(Sparse(pieces))
    bounds = (0, 10, 20, 54)
    parts = [Chapter(f"{first}", first, behind, Hex(0)) for first, behind in pairwise(bounds)]
    assert runs_within(one, parts) == [{0: 2, 1: 6}, None, None]
    assert runs_within(one, [parts[0], Chapter("rest", 10, 54, Hex(0))]) == [{0: 2, 1: 6}, {0: 3, 2: 7}]
    assert one.counts_before(20) is None
