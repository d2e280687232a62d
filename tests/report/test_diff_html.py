"""The comparison as a page in a real Chromium: no complaints, no requests, folds, marks; hostile text stays text."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from pvhdbg.report import diff_html
from pvhdbg.report.diff import Comparison, Weight, compare
from pvhdbg.rules.examples import RAM_MAP, at_entry
from pvhdbg.spec.start_info import MemoryMapEntry
from tests.report.reports import HOSTILE, failing, golden, hostile, report_of


def compared() -> Comparison:
    """One that has a difference of each weight, and another memory map."""
    more = [*RAM_MAP, MemoryMapEntry(1 << 32, 1 << 30, 1, 0)]
    b = report_of(at_entry(cr4=0x20, unobserved=["cr0"], memory_map=more, esp=0x7000))
    found = compare(("good.pvhsnap", "vmlinux"), report_of(at_entry()), b)
    assert all(found.of(weight) for weight in Weight)
    return found


def opened(tab: Any, folder: Path, comparison: Comparison) -> Any:
    path = folder / "diff.html"
    path.write_text(diff_html.render(comparison), encoding="utf-8")
    tab.open(path)
    assert tab.complaints == []
    assert tab.requests == [path.as_uri()]
    return tab


def test_it_shows_what_matters_first_and_unfolded(chromium: Any, tmp_path: Path) -> None:
    comparison = compared()
    tab = opened(chromium, tmp_path, comparison)
    assert tab.ask("document.querySelector('h1').textContent").lower() == comparison.conclusion.lower()
    assert tab.ask("document.querySelector('h1').className") == "bad"
    assert tab.ask("[...document.querySelectorAll('h2')].map(one => one.textContent)") == [
        "What matters", "Not seen on one side", "What the ABI leaves free", "Physical memory"
    ]  # fmt: skip
    assert tab.ask("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.getAttribute('href')))")
    for weight in Weight:
        rows = tab.ask(
            f"[...document.querySelectorAll('#{weight.value} tbody tr')].map(r => [...r.cells].slice(0, 3).map(c => c.textContent))"
        )
        assert rows == [[one.at, one.a, one.b] for one in comparison.of(weight)]
        folded = tab.ask(f"[...document.querySelectorAll('#{weight.value} details')].every(one => !one.open)")
        assert folded is (weight is Weight.FREE)
    assert tab.ask("document.querySelectorAll('#memory svg').length") == 2


def test_the_part_that_differs_is_marked(chromium: Any, tmp_path: Path) -> None:
    a, b = (
        report_of(at_entry(command_line=words))
        for words in (b"console=ttyS0 quiet root=/dev/vda", b"console=ttyS0 debug root=/dev/vda")
    )
    tab = opened(chromium, tmp_path, compare(("a", "b"), a, b))
    assert tab.ask("[...document.querySelectorAll('#matters mark')].map(one => one.textContent)") == ["quiet", "debug"]


def test_every_fold_opens_and_nothing_sticks_out(chromium: Any, tmp_path: Path) -> None:
    comparisons = (compared(), compare((HOSTILE, "b"), hostile(), golden()))
    for width, comparison in ((380, comparisons[0]), (380, comparisons[1]), (1200, comparisons[1])):
        chromium.width(width)
        tab = opened(chromium, tmp_path, comparison)
        tab.ask("document.querySelectorAll('details:not([open]) > summary').forEach(one => one.click())")
        assert tab.ask("[...document.querySelectorAll('details')].every(one => one.open && one.lastElementChild.checkVisibility())")
        assert tab.ask("document.documentElement.scrollWidth") <= width
    chromium.width(1200)


def test_hostile_text_stays_text(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, tmp_path, compare((HOSTILE, HOSTILE), hostile(), golden()))
    assert tab.ask("document.querySelectorAll('script, img, iframe, object, embed, link, form, input, base, h4').length") == 0
    assert tab.ask("[...document.querySelectorAll('*')].every(one => ![...one.attributes].some(two => two.name.startsWith('on')))")
    assert "</script><script>alert(1)</script><img src=x onerror=alert(2)>" in tab.ask(
        "document.querySelector('#matters').textContent"
    )
    assert tab.ask("/[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202e]/.test(document.documentElement.textContent)") is False


def test_the_same_is_a_page_too(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, tmp_path, compare(("a", "b"), golden(), golden()))
    assert tab.ask("document.querySelector('h1').textContent") == "The same where it matters"
    assert tab.ask("document.querySelectorAll('section, nav').length") == 0


@pytest.mark.parametrize("strict", [False, True])
def test_every_pair_is_well_formed_and_says_its_differences(strict: bool) -> None:
    for one, two in pairwise(list(failing())[::3]):
        comparison = compare(("a", "b"), one, two, strict)
        root = etree.fromstring(diff_html.render(comparison).removeprefix("<!DOCTYPE html>\n").encode())
        cells = ["".join(cell.itertext()) for cell in root.iter("td")]
        for difference in comparison.differences:
            assert {difference.at, difference.a, difference.b} <= set(cells)
        assert f"exit code {comparison.exit_code}" in "".join(root.itertext())
