"""What each format looks like, as files to review: tests/report/golden. PVHDBG_GOLDEN=write writes them anew."""

import dataclasses
import os
import re
from difflib import unified_diff
from pathlib import Path

import pytest

from pvhdbg.commands.formats import JUDGED, of_boot
from pvhdbg.report import diff_html, json_report, text
from pvhdbg.report.diff import compare
from pvhdbg.report.document import Report
from pvhdbg.rules.examples import RAM_MAP, at_entry
from pvhdbg.spec.start_info import MemoryMapEntry
from pvhdbg.version import VERSION
from tests.report.reports import golden, report_of

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    "text": "boot.txt", "json": "boot.json", "sarif": "boot.sarif", "junit": "boot.junit.xml", "tap": "boot.tap", "ktap": "boot.ktap",
    "github": "boot.github.txt", "summary": "boot.summary.md", "markdown": "boot.md", "html": "boot.html",
}  # fmt: skip
DIFF = "diff.html"


# One for each outcome and severity: what is reviewed here is a format, not the catalogue.
RULES = ("PVH-CR0-PE", "PVH-CR4-ZERO", "PVH-EFER-LMA", "PVH-ESP", "PVH-TR-LIMIT", "SI-MM-TYPE", "DA-EAX")


def few_rules(report: Report) -> Report:
    return dataclasses.replace(report, verdicts=tuple(one for one in report.verdicts if one.rule.id in RULES))


def test_every_format_has_a_golden_file() -> None:
    assert set(FILES) == set(JUDGED)
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted([*FILES.values(), DIFF])


@pytest.mark.parametrize("format", JUDGED)
def test_golden(format: str) -> None:
    report = few_rules(golden())
    render = {"text": lambda: text.render(report), "json": lambda: json_report.render(report), **of_boot(report, "no such file")}
    agrees(GOLDEN / FILES[format], render[format]())


def test_golden_diff() -> None:
    a, b = (
        few_rules(report)
        for report in (golden(), report_of(at_entry(cr4=0x20, memory_map=[*RAM_MAP, MemoryMapEntry(1 << 32, 1 << 30, 1, 0)])))
    )
    agrees(GOLDEN / DIFF, diff_html.render(compare(("good.pvhsnap", "vmlinux"), a, b)))


def agrees(path: Path, written: str) -> None:
    """Fail with the differing lines, unless the file says the same. Of a page it is the content: the style sheet is a file itself."""
    written = re.sub(r"(?s)<style>.*?</style>", "<style></style>", written.replace(VERSION, "@VERSION@"))
    if os.environ.get("PVHDBG_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(written, encoding="utf-8")
    differing = list(
        unified_diff(path.read_text(encoding="utf-8").splitlines(), written.splitlines(), str(path), "written now", n=0)
    )
    assert not differing, "\n".join([line[:300] for line in differing[:20]])
