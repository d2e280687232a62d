"""Milestones: found once each, in order, whatever the engine shows."""

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import NOTHING
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.tracing.event import Batch, Changes
from pvhdbg.tracing.milestones import TITLES, Finder, Milestone

P, C, L = Mode.PROTECTED, Mode.COMPATIBILITY, Mode.LONG
# code, mode, what it changes: the mode switch of any 64-bit kernel
SWITCH = [
    (b"\xfc", P, {}),
    (b"\x0f\x01\x15\x00\x00\x00\x00", P, {"gdt_base": 0x1000, "gdt_limit": 31}),
    (b"\x8e\xd8", P, {"ds": 0x18, "ds_flags": 0xCF9300}),
    (b"\x0f\x22\xe0", P, {"cr4": 0x20}),
    (b"\x0f\x22\xd8", P, {"cr3": 0x102000}),
    (b"\x0f\x30", P, {"efer": 0x100}),
    (b"\x0f\x22\xc0", P, {"cr0": 0x80000011, "efer": 0x500}),
    (b"\xea\x00\x00\x00\x00\x10\x00", C, {"cs": 0x10, "cs_flags": 0xAF9B00}),
    (b"\x90", L, {}),
    (b"\x90", L, {}),
    (b"\x0f\x01\x1d\x00\x00\x00\x00", L, {"idt_base": 0x2000, "idt_limit": 0xFFF}),
]
ORDER = [
    "entry",
    "lgdt",
    "segments",
    "cr4.pae",
    "cr3",
    "efer.lme",
    "cr0.pg",
    "efer.lma",
    "far jump",
    "64-bit",
    "higher half",
    "idt",
]


def batch(
    states: bool = True, seq: int = 0, rows: list[tuple[bytes, Mode, dict[str, int]]] = SWITCH, pcs: list[int] | None = None
) -> Batch:
    pcs = pcs or [0x100000 + index if index < 9 else 0xFFFFFFFF81000000 + index for index in range(len(rows))]
    deltas = [Changes(changes) for _, _, changes in rows] if states else None
    system = [index for index, row in enumerate(rows) if row[2]] if states else []
    return Batch(seq, pcs, [mode for _, mode, _ in rows], [code for code, _, _ in rows], deltas, None, system)


def test_the_whole_switch_by_states() -> None:
    finder = Finder()
    found = finder.feed(batch(seq=100))
    assert [one.name for one in found] == ORDER
    assert [one.seq for one in found] == [100, 101, 102, 103, 104, 105, 106, 106, 107, 108, 109, 110]
    assert {one.name: one.detail for one in found}["lgdt"] == "base 0x1000, limit 0x1f"
    assert finder.complete
    assert set(ORDER) == TITLES.keys()
    assert finder.feed(batch(seq=200)) == []


def test_places_alone_show_what_code_and_mode_tell_and_no_values() -> None:
    found = Finder().feed(batch(states=False))
    names = [one.name for one in found]
    assert names == ["entry", "lgdt", "segments", "efer.lma", "far jump", "64-bit", "higher half", "idt"]
    assert not any(one.detail for one in found)


def test_what_was_so_at_the_beginning_is_no_milestone() -> None:
    found = Finder(start={"cr4": 0x20, "efer": 0}).feed(batch())
    assert "cr4.pae" not in {one.name for one in found}
    assert "efer.lme" in {one.name for one in found}


def test_symbols_are_met_at_either_address_and_once() -> None:
    finder = Finder({0x100008: "start_kernel", 0xFFFFFFFF81000009: "start_kernel"})
    assert Milestone("start_kernel", 8, 0x100008, NOTHING, L) in finder.feed(batch())
    assert finder.complete


def test_linux_does_not_come_by_its_own_symbols_again() -> None:
    """A trace that begins behind one of them does not wait for it."""
    addresses = {0x1000 * number: name for number, name in enumerate(MILESTONES, 1)}
    finder = Finder({**addresses, 0x9000: "mine"})
    assert set(finder.left.values()) == {*MILESTONES, "mine"}
    finder.feed(Batch(0, [0x3000], [Mode.LONG], [b"\x90"]))
    assert finder.settled
    assert finder.left == {0x4000: "rest_init", 0x9000: "mine"}


def test_an_address_at_3_gib_without_paging_is_no_higher_half() -> None:
    rows: list[tuple[bytes, Mode, dict[str, int]]] = [(b"\x90", P, {}), (b"\x90", Mode.PAGED, {})]
    found = Finder().feed(batch(rows=rows, pcs=[0xC0100000, 0xC0100001]))
    assert [(one.name, one.seq) for one in found] == [("entry", 0), ("higher half", 1)]
