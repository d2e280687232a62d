"""The picture of a boot: spans that cover it, bars on one scale, marks for the milestones."""

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import NOTHING
from pvhdbg.report.timeline_text import render, spans
from pvhdbg.tracing.milestones import Milestone

P, C, L = Mode.PROTECTED, Mode.COMPATIBILITY, Mode.LONG
FOUND = [
    Milestone("entry", 0, 0x100000, NOTHING, P),
    Milestone("cr0.pg", 49, 0x100010, NOTHING, P),
    Milestone("efer.lma", 49, 0x100010, NOTHING, P),
    Milestone("far jump", 50, 0x100013, NOTHING, C),
    Milestone("64-bit", 51, 0x100020, NOTHING, L),
    Milestone("higher half", 60, 1 << 63, NOTHING, L),
]


def test_the_spans_cover_the_boot_without_gap() -> None:
    assert spans(FOUND, 100) == [("protected", 0, 50), ("compatibility", 50, 51), ("long", 51, 100)]
    assert spans([], 10) == []
    assert spans([Milestone("entry", 0, 1)], 10) == []  # a trace that did not keep modes


def test_bars_are_as_long_as_their_share_and_none_is_invisible() -> None:
    lines = render(FOUND, 100, lambda _: None, "all seen").splitlines()
    bars = {line.split()[0]: line[14:74] for line in lines[:3]}
    assert {mode: bar.count("█") for mode, bar in bars.items()} == {"protected": 30, "compatibility": 1, "long": 30}
    assert bars["protected"].startswith("█")
    assert bars["long"].endswith("█")
    assert lines[3][14] == "╵"
    assert lines[3][14:74].strip() == "╵                            ┃┃     ╵"  # 0; twice 49; 50 and 51; 60 of 100
    assert "ended: all seen" in lines[-1]


def test_nothing_seen_and_a_milestone_behind_the_end_are_drawn_too() -> None:
    assert "no milestone was reached" in render([], 0, lambda _: None, "the time was up")
    assert "61 instructions" in render(FOUND, 0, lambda _: None, "cut")
