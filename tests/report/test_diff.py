"""Comparisons: what matters, what is free, what was not seen; the memory map as intervals."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pvhdbg
from pvhdbg.model import DescriptorTable, Kernel, LoadRange, Vmm
from pvhdbg.report import diff_text
from pvhdbg.report.diff import Comparison, Weight, compare, interval_difference
from pvhdbg.report.style import Style
from pvhdbg.rules.examples import ENTRY, MODULE, RAM_MAP, Example, at_draft_a_entry, at_entry
from pvhdbg.spec.start_info import MemoryMapEntry, ModuleEntry
from tests.report.reports import failing, golden, hostile, report_of

SCHEMA = json.loads((Path(pvhdbg.__file__).parent / "report" / "schemas" / "diff-1.json").read_text())
MATTERS, FREE, UNSEEN = Weight


def compared(b: Example, a: Example | None = None, spec: str = "v1", strict: bool = False) -> Comparison:
    return compare(("a", "b"), report_of(a or at_entry(), spec), report_of(b, spec), strict)


def weights(comparison: Comparison) -> dict[str, Weight]:
    return {one.at: one.weight for one in comparison.differences if one.part != "rules"}


def ram(*ranges: tuple[int, int, int]) -> list[MemoryMapEntry]:
    return [MemoryMapEntry(start, size, kind, 0) for start, size, kind in ranges]


def test_the_same_is_the_same() -> None:
    for report in (golden(), hostile(), *failing()):
        comparison = compare(("a", "b"), report, report)
        assert comparison.differences == ()
        assert (comparison.exit_code, comparison.conclusion) == (0, "the same where it matters")


@pytest.mark.parametrize(
    ("changes", "at", "weight"),
    [
        ({"cr4": 0x20}, "cr4", MATTERS),
        ({"cr0": 0x10011}, "cr0", MATTERS),
        ({"cr0": 0x01}, "cr0", FREE),  # ET
        ({"eflags": 0x202}, "eflags", MATTERS),
        ({"eflags": 0x402}, "eflags", FREE),  # DF
        ({"eax": 0x2BADB002}, "rax", FREE),
        ({"esp": 0x7000}, "rsp", FREE),
        ({"cr3": 0x1000}, "cr3", FREE),
        ({"efer": 0x100}, "efer", FREE),
        ({"eip": ENTRY + 4}, "rip", MATTERS),
        ({"eip": ENTRY + 4, "kernel": Kernel(entry=ENTRY + 4)}, "rip", FREE),
        ({"unobserved": ["cr4"]}, "cr4", UNSEEN),
        ({"unobserved": ["rcx"]}, "rcx", FREE),
        ({"cs": 0x18}, "cs selector", None),  # the hidden state names it
        ({"cs_base": 0x10}, "cs.base", MATTERS),
        ({"cs_flags": 0x00CF9A00}, "cs.flags", FREE),  # accessed
        ({"cs_flags": 0x00C09B00}, "cs.flags", FREE),  # the limit's nibble, as KVM shows it
        ({"cs_flags": 0x00CFFB00}, "cs.flags", FREE),  # DPL
        ({"cs_flags": 0x00AF9B00}, "cs.flags", MATTERS),  # L for D
        ({"ds_flags": 0x00CF9700}, "ds.flags", MATTERS),  # expand-down
        ({"fs_base": 0x10}, "fs.base", FREE),
        ({"tr_limit": 0xFFFF}, "tr.limit", MATTERS),
        ({"tr_flags": 0x8900}, "tr.flags", MATTERS),
        ({"segments": False}, "ds.limit", UNSEEN),
        ({"gdt": DescriptorTable(0x100, 0x10)}, "gdt", FREE),
        ({"a20": None}, "A20 gate", FREE),
        ({"a20": False}, "A20 gate", MATTERS),
        ({"command_line": b"console=ttyS1\0"}, "command line", MATTERS),
        ({"cmdline_paddr": 0x20001}, "command line", MATTERS),
        ({"cmdline_paddr": 0x7FFFFFFF0000}, "command line", UNSEEN),
        ({"cmdline_paddr": 0x20040, "memory": {0x20040: b"console=ttyS0\0"}}, "cmdline_paddr", FREE),
        ({"flags": 1}, "flags", MATTERS),
        ({"version": 2}, "version", MATTERS),
        ({"reserved": 7}, "reserved", MATTERS),
        ({"modules": []}, "nr_modules", MATTERS),
        ({"modules": [MODULE, MODULE]}, "nr_modules", MATTERS),
        ({"modules": [ModuleEntry(MODULE.paddr + 0x1000, MODULE.size, 0, 0)]}, "module 0 paddr", FREE),
        ({"modules": [ModuleEntry(MODULE.paddr, MODULE.size - 1, 0, 0)]}, "module 0 size", MATTERS),
        ({"modules": [ModuleEntry(MODULE.paddr, MODULE.size, 0x20000, 0)]}, "module 0 command line", MATTERS),
        ({"memory": {MODULE.paddr: b"070701" + bytes(10)}}, "module 0 kind", MATTERS),
        ({"modlist_paddr": 0}, "modules", UNSEEN),
        ({"rsdp_paddr": 0}, "RSDP", MATTERS),
        ({"rsdp": bytes(36)}, "RSDP", MATTERS),
        ({"rsdp_paddr": 0xFFFF00000000}, "RSDP", UNSEEN),
        ({"memmap_paddr": 0, "memmap_entries": 0}, "memory map", MATTERS),
        ({"memory_map": ram((0, 0x9FC00, 1), (0xF0000, 0x10000, 2), (0x100000, 0x1FE00000, 1))}, "0x1ff00000 - 0x20000000 (1 MiB)", MATTERS),
        ({"memory_map": ram((0, 0x9FC00, 1), (0x100000, 0x1FF00000, 1))}, "0xf0000 - 0x100000 (64 KiB)", FREE),
        ({"memory_map": ram((0, 0x9FC00, 1), (0xF0000, 0x10000, 3), (0x100000, 0x1FF00000, 1))}, "0xf0000 - 0x100000 (64 KiB)", MATTERS),
        ({"magic": 0}, "start_info", MATTERS),
        ({"vmm": Vmm("other", "2"), "kernel": Kernel(path="other", entry=ENTRY, loads=(LoadRange(0, 1),))}, "vmm", None),
    ],
)  # fmt: skip
def test_each_difference_has_its_weight(changes: dict[str, Any], at: str, weight: Weight | None) -> None:
    for comparison in (compared(at_entry(**changes)), compare(("b", "a"), report_of(at_entry(**changes)), report_of(at_entry()))):
        assert weights(comparison).get(at) is weight
        if weight is MATTERS:
            assert comparison.exit_code == 1
        elif MATTERS not in {one.weight for one in comparison.differences}:
            assert comparison.exit_code == 0


def test_draft_a_binds_more() -> None:
    found = weights(compared(at_draft_a_entry(fs_base=0x10, a20=None), at_draft_a_entry(), "draft-a"))
    assert found["fs.base"] is MATTERS
    assert found["A20 gate"] is UNSEEN


def test_another_protocol_matters() -> None:
    linux64 = next(report for report in failing() if report.boot.other_protocol is not None)
    comparison = compare(("a", "b"), report_of(at_entry()), linux64)
    assert weights(comparison)["protocol"] is MATTERS


def test_rules_that_changed_their_outcome() -> None:
    comparison = compared(at_entry(tr_limit=0x10, esp=0x6000, unobserved=["cr4"]))
    rules = {one.at: (one.a, one.b, one.weight) for one in comparison.differences if one.part == "rules"}
    assert rules == {
        "PVH-TR-LIMIT": ("PASS", "FAIL", MATTERS), "PVH-ESP": ("PASS", "REMARK", FREE), "PVH-CR4-ZERO": ("PASS", "UNKNOWN", UNSEEN)
    }  # fmt: skip


def test_the_unseen_is_undecided_under_strict() -> None:
    assert compared(at_entry(unobserved=["cr4"])).exit_code == 0
    assert compared(at_entry(unobserved=["cr4"]), strict=True).exit_code == 4
    assert compared(at_entry(unobserved=["cr4"], cr0=0x80000011), strict=True).exit_code == 1


def test_long_command_lines_show_where_they_begin_to_differ() -> None:
    long = b"x" * 5000
    comparison = compared(at_entry(command_line=long + b"1\0"), at_entry(command_line=long + b"2\0"))
    (one,) = (one for one in comparison.differences if one.at == "command line")
    assert (one.a, one.b) == (f"…“{'x' * 20}2”", f"…“{'x' * 20}1”")


def test_how_a_map_is_cut_up_does_not_matter() -> None:
    pieces = ram((0x100000, 0x1FF00000, 1), (0, 0x1000, 1), (0x1000, 0x9EC00, 1), (0xF0000, 0x10000, 2))
    assert compared(at_entry(memory_map=pieces)).of(MATTERS) == [
        one for one in compared(at_entry(memory_map=pieces)).of(MATTERS) if one.part == "rules"
    ]
    assert [one for one in compared(at_entry(memory_map=pieces)).differences if one.part == "memory map"] == []
    assert list(interval_difference(RAM_MAP, pieces)) == []


ENTRIES = st.lists(st.builds(MemoryMapEntry, st.integers(0, 30), st.integers(0, 12), st.integers(1, 3), st.just(0)), max_size=6)


@given(ENTRIES, ENTRIES)
def test_intervals_are_what_asking_each_address_gives(a: list[MemoryMapEntry], b: list[MemoryMapEntry]) -> None:
    def types(entries: list[MemoryMapEntry], address: int) -> tuple[int, ...]:
        return tuple(sorted({one.type for one in entries if one.addr <= address < one.addr + one.size}))

    found = list(interval_difference(a, b))
    wanted = {at: (types(a, at), types(b, at)) for at in range(50) if types(a, at) != types(b, at)}
    assert {at: (one, two) for start, end, one, two in found for at in range(start, end)} == wanted
    assert all(one[:2] < two[:2] and (one[1] < two[0] or one[2:] != two[2:]) for one, two in pairwise(found))


def test_huge_maps_are_listed_to_a_bound() -> None:
    entries = [MemoryMapEntry(index << 21, 1 << 20, 1, 0) for index in range(512)]
    comparison = compared(at_entry(memory_map=entries))
    assert len([one for one in comparison.differences if one.part == "memory map"]) == 129


@pytest.mark.slow
def test_text_and_json_say_every_difference() -> None:
    for report in (golden(), hostile(), *failing()):
        comparison = compare(("a\x1b[31m", "b"), report_of(at_entry()), report)
        document = json.loads(diff_text.render_json(comparison))
        jsonschema.validate(document, SCHEMA)
        text = diff_text.render(comparison)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert text.rstrip("\n").splitlines()[-1] == f"{comparison.conclusion} (exit {comparison.exit_code})"
        for one, shown in zip(comparison.differences, document["differences"], strict=True):
            assert (shown["at"], shown["weight"]) == (one.at, one.weight.value)
            assert one.at in text
            assert one.a in text
    assert "\x1b[" in diff_text.render(comparison, Style(colour=True))
