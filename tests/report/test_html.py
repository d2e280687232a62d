"""The HTML report in a real Chromium: no complaints, no requests, every fold opens, hostile text stays text, colours can be read."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from pvhdbg.decode.text import safe
from pvhdbg.model import LoadRange
from pvhdbg.report import html, memory_svg
from pvhdbg.report.document import Passed, Report
from pvhdbg.report.memory_picture import PicturePart
from pvhdbg.report.memory_svg import Band
from pvhdbg.rules.catalogue import MACHINE_RULES
from pvhdbg.rules.examples import at_draft_a_entry, at_entry
from pvhdbg.spec.start_info import MemoryMapEntry
from tests.report.reports import HOSTILE, failing, golden, hostile, report_of


def page(folder: Path, report: Report) -> Path:
    path = folder / "report.html"
    path.write_text(html.render(report), encoding="utf-8")
    return path


def opened(tab: Any, path: Path) -> Any:
    tab.open(path)
    assert tab.complaints == []
    assert tab.requests == [path.as_uri()]
    return tab


# --- in the browser -----------------------------------------------------------------------------------------------


def test_it_renders_without_a_complaint_and_without_the_network(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path, golden()))
    assert tab.ask("document.compatMode") == "CSS1Compat"
    assert tab.ask("document.querySelector('h1').textContent") == "The hand-off VIOLATES the PVH boot ABI"
    assert tab.ask("[...document.querySelectorAll('h2')].map(one => one.textContent)") == [
        "Checks", "Registers", "Segments", "start_info", "Physical memory", "Serial port"
    ]  # fmt: skip
    assert tab.ask("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.getAttribute('href')))")
    assert tab.ask("document.querySelector('#serial pre').textContent") == "\n".join(golden().serial)
    assert "bzImage" in tab.ask("document.querySelector('.caution').textContent")


def test_every_fold_opens_and_closes(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path, golden()))
    folds = tab.ask("document.querySelectorAll('details').length")
    assert folds == len(MACHINE_RULES) + 10
    # What failed is unfolded from the beginning.
    for rule in ("PVH-CR4-ZERO", "PVH-TR-LIMIT"):
        assert tab.ask(f"[...document.querySelectorAll('details.rule[open]')].some(one => one.textContent.includes('{rule}'))")
    tab.ask("document.querySelectorAll('details[open] > summary').forEach(one => one.click())")
    assert tab.ask("document.querySelectorAll('details[open]').length") == 0
    assert tab.ask("[...document.querySelectorAll('details.rule')].every(one => !one.checkVisibility())")
    tab.ask("document.querySelectorAll('details > summary').forEach(one => one.click())")
    assert tab.ask("document.querySelectorAll('details[open]').length") == folds
    assert tab.ask(
        "[...document.querySelectorAll('details.rule > blockquote')].filter(one => one.getBoundingClientRect().height > 10).length"
    ) == len(MACHINE_RULES)
    assert tab.complaints == []


def test_hostile_text_stays_text(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path, hostile()))
    assert tab.ask("document.querySelectorAll('script, img, iframe, object, embed, link, form, input, base, h4').length") == 0
    assert tab.ask("[...document.querySelectorAll('*')].every(one => ![...one.attributes].some(two => two.name.startsWith('on')))")
    assert tab.ask("document.querySelectorAll('svg').length") == 1
    links = tab.ask("[...document.querySelectorAll('a')].map(one => one.getAttribute('href'))")
    assert set(links) <= {rule.clause.document.url for rule in MACHINE_RULES} | {
        f"#{one}" for one in ("checks", "registers", "segments", "start-info", "memory", "serial")
    }
    shown = tab.ask("document.querySelector('#start-info').textContent")
    assert "</script><script>alert(1)</script><img src=x onerror=alert(2)>" in shown
    assert safe(HOSTILE.split("\n")[0]) in tab.ask("document.querySelector('#serial').textContent")
    assert tab.ask("/[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202e]/.test(document.documentElement.textContent)") is False


def test_milestones_are_a_timeline(chromium: Any, tmp_path: Path) -> None:
    passed = (
        Passed("long", 0.01),
        Passed(HOSTILE.split("\n")[0], 0.5),
        Passed("start_kernel", 2.0, "the guest died: a triple fault"),
    )
    tab = opened(chromium, page(tmp_path, replace(golden(), milestones=passed)))
    assert tab.ask("document.querySelectorAll('svg.timeline g').length") == 3
    assert tab.ask("[...document.querySelectorAll('svg.timeline rect.bad')].length") == 1
    xs = tab.ask("[...document.querySelectorAll('svg.timeline rect')].map(one => one.getBoundingClientRect().x)")
    assert xs == sorted(xs)
    box = "document.querySelector('svg.timeline').getBoundingClientRect()"
    assert tab.ask(
        f"[...document.querySelectorAll('svg.timeline rect')].every(one => one.getBoundingClientRect().right <= {box}.right)"
    )
    assert HOSTILE.split("\n")[0] in tab.ask("document.querySelector('#milestones').textContent")
    assert "a triple fault" in tab.ask("document.querySelector('#milestones').textContent")
    assert tab.ask("document.querySelectorAll('script, img').length") == 0
    etree.fromstring(html.render(replace(golden(), milestones=passed * 30)).encode().split(b"\n", 1)[1])
    assert "42 more milestones are not drawn" in html.render(replace(golden(), milestones=passed * 30))


def test_the_policy_forbids_what_escaping_might_miss(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html.render(golden()).replace("<footer>", "<script>document.title='owned'</script><footer style='color:red'>"))
    chromium.open(path)
    assert chromium.ask("document.title") != "owned"
    assert len(chromium.complaints) == 2
    assert all("Content Security Policy" in one for one in chromium.complaints)


_CONTRAST = """(() => {
  const light = colour => { const [r, g, b] = colour.map(c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
  const behind = one => { for (; one; one = one.parentElement) { const c = numbers(getComputedStyle(one).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return numbers(getComputedStyle(document.body).backgroundColor).slice(0, 3); };
  const worst = [];
  for (const one of document.querySelectorAll('body *')) {
    if (one.closest('svg') || ![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(numbers(getComputedStyle(one).color).slice(0, 3)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst.push([ratio, one.className, one.textContent.slice(0, 20)]);
  }
  return worst;
})()"""


def test_light_and_dark_can_both_be_read(chromium: Any, tmp_path: Path) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        chromium.scheme(scheme)
        tab = opened(chromium, page(tmp_path, golden()))
        tab.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert tab.ask(_CONTRAST) == []
        backgrounds.append(tab.ask("getComputedStyle(document.body).backgroundColor"))
        assert tab.ask("getComputedStyle(document.querySelector('svg .ram')).fill") != tab.ask(
            "getComputedStyle(document.querySelector('svg text')).fill"
        )
    assert backgrounds[0] != backgrounds[1]


@pytest.mark.parametrize("width", [380, 1200])
def test_nothing_sticks_out_of_the_window(chromium: Any, tmp_path: Path, width: int) -> None:
    chromium.width(width)
    for report in (golden(), hostile()):
        tab = opened(chromium, page(tmp_path, report))
        tab.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert tab.ask("document.documentElement.scrollWidth") <= width


def test_the_picture_places_every_part_inside_its_range_and_labels_do_not_overlap(chromium: Any, tmp_path: Path) -> None:
    chromium.width(1200)
    tab = opened(chromium, page(tmp_path, golden()))
    boxes = tab.ask(
        "[...document.querySelectorAll('svg g')].map(g => [...g.querySelectorAll('rect')].map(r => ({kind: r.getAttribute('class'), "
        "title: r.firstElementChild.textContent, y: r.y.baseVal.value, end: r.y.baseVal.value + r.height.baseVal.value})))"
    )
    for band, *parts in boxes:
        assert band["kind"].startswith("band ")
        assert all(band["y"] - 0.1 <= part["y"] and part["end"] <= band["end"] + 0.1 for part in parts)
        assert [part["y"] for part in parts] == sorted(part["y"] for part in parts)
    ends = [group[0]["end"] for group in boxes]
    assert all(abs(end - group[0]["y"]) < 0.2 for end, group in zip(ends, boxes[1:], strict=False))  # no hole, no overlap
    titles = " ".join(box["title"] for group in boxes for box in group)
    for name in (
        "start_info",
        "module 0",
        "module 1",
        "RSDP",
        "kernel segment 0",
        "kernel segment 1",
        "command line",
        "RAM",
        "reserved",
    ):
        assert f"{name}: 0x" in titles
    labels = tab.ask(
        "[...document.querySelectorAll('svg text')].map(t => { const r = t.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })"
    )
    for index, (left, top, right, bottom) in enumerate(labels):
        for other in labels[index + 1 :]:
            apart = other[0] >= right or left >= other[2] or other[1] >= bottom - 4 or top >= other[3] - 4
            assert apart, (labels[index], other)


def test_registers_are_shown_bit_by_bit(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path, golden()))
    on = tab.ask("[...document.querySelectorAll('#registers .bit.on')].map(one => one.title)")
    assert on == ["bit 4, ET: 1", "bit 0, PE: 1", "bit 5, PAE: 1", "bit 1: 1"]
    assert tab.ask("[...document.querySelectorAll('#registers .field')].map(one => one.querySelectorAll('.bit').length)") == [
        32,
        32,
        0,
        32,
    ]


# --- without one --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_failing_example_is_well_formed_and_says_its_verdicts() -> None:
    for report in failing():
        root = etree.fromstring(html.render(report).removeprefix("<!DOCTYPE html>\n").encode())
        words = " ".join("".join(root.itertext()).split())
        assert report.conclusion[1:] in words
        for verdict in report.verdicts:
            assert verdict.rule.id in words
            assert verdict.rule.clause.words in words
            for one in verdict.violations:
                assert " ".join(one.expected.split()) in words


def test_draft_a_and_the_unobserved_have_pages() -> None:
    for report, words in (
        (report_of(at_draft_a_entry(32), "draft-a"), "32-bit layout"),
        (report_of(at_entry(segments=False, unobserved=["cr0", "ebx"], kernel=None)), "not observed"),
        (report_of(at_entry(found_by="here")), "--here"),
        (report_of(at_entry(memmap_entries=0, memmap_paddr=0)), "own memory layout; the hand-off has no map"),
        (report_of(at_entry(memmap_entries=0, memmap_paddr=0, backing=None)), "nr_modules"),
    ):
        written = html.render(report)
        assert words in written
        etree.fromstring(written.removeprefix("<!DOCTYPE html>\n").encode())


def test_a_huge_or_wrapping_map_stays_a_small_picture() -> None:
    entries = [MemoryMapEntry(index << 20, 1 << 21, index % 9, 0) for index in range(500)]
    entries.append(MemoryMapEntry((1 << 64) - 1, (1 << 64) - 1, 0xFFFFFFFF, 0))
    written = html.render(report_of(at_entry(memory_map=entries)))
    assert len(written) < 300_000
    assert "453 more ranges are not drawn" in written


def test_bands_are_cut_where_they_overlap_and_gaps_are_drawn() -> None:
    bands = [Band(0x1000, 0x3000, "RAM", "ram"), Band(0x2000, 0x4000, "reserved", "reserved"), Band(0x2000, 0x2000, "x", "bad")]
    drawn = memory_svg.render(bands, [PicturePart("far", 0x9000, 0x9001), PicturePart("wild", 0x500, 1 << 70)])
    titles = re.findall(r"<title>([^<]*)</title>", drawn)
    assert [title for title in titles if ": " in title] == [
        "gap: 0x0 to 0x1000, 4 KiB", "wild: 0x500 to 0x400000000000000000", "RAM: 0x1000 to 0x3000, 8 KiB",
        "reserved: 0x3000 to 0x4000, 4 KiB", "gap: 0x4000 to 0x400000000000000000, 1073741824 TiB", "far: 0x9000 to 0x9001",
    ]  # fmt: skip


def test_a_kernel_of_many_segments_is_one_part() -> None:
    from pvhdbg.rules.examples import KERNEL

    many = memory_svg.kernel_parts(type(KERNEL)(loads=tuple(LoadRange(index << 12, 1 << 12) for index in range(1000))))
    assert many == [PicturePart("kernel, 1000 segments", 0, 1000 << 12)]
