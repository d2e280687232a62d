"""Workflow commands, read as GitHub's runner reads them, and the step summary."""

import re

import pytest

from pvhdbg.report import github, markdown
from pvhdbg.report.listing import of_boot
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import at_entry
from tests.report.reports import HOSTILE, failing, golden, hostile, report_of

COMMAND = re.compile(r"::(error|warning|notice) title=([^:,]*)::(.*)")


def commands(output: str) -> list[tuple[str, str, str]]:
    """Command, title and message of each line, unescaped in the runner's order; a line that is not a command fails."""
    found = []
    assert output.endswith("\n")
    for line in output.removesuffix("\n").split("\n"):
        match = COMMAND.fullmatch(line)
        assert match is not None, line
        title, message = match[2], match[3]
        for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            title = title.replace(code, letter)
        for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            message = message.replace(code, letter)
        found.append((match[1], title, message))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_errors_are_what_the_exit_code_says(strict: bool) -> None:
    for report in failing(strict):
        found = commands(github.render(of_boot(report)))
        assert ("error" in [name for name, _, _ in found]) == (report.exit_code != 0)
        assert found[-1] == ("error" if report.exit_code else "notice", "PVH boot ABI", report.conclusion)


def test_each_outcome_has_its_command() -> None:
    found = {title.split()[0]: (name, message) for name, title, message in commands(github.render(of_boot(golden())))}
    assert found["PVH-CR4-ZERO"][0] == "error"
    assert found["PVH-CR4-ZERO"][1].startswith("cr4: expected 0x0, found 0x20 (PAE)\n")
    assert found["PVH-TR-LIMIT"][0] == found["PVH-ESP"][0] == found["undecided:"][0] == "notice"
    assert "efer was not observed" in found["undecided:"][1]
    assert "PVH-CR0-PE" not in found


def test_one_reason_is_one_command() -> None:
    report = report_of(at_entry(kernel=None))
    reasons = {verdict.reason for verdict in report.verdicts if verdict.outcome is Outcome.UNKNOWN}
    assert len([one for one in commands(github.render(of_boot(report))) if one[1].startswith("undecided")]) == len(reasons)


def test_hostile_text_is_no_command() -> None:
    found = commands(github.render(of_boot(hostile())))
    assert [one for one in found if HOSTILE.split("##[")[0] in one[2]]
    assert all(letter.isprintable() or letter == "\n" for _, title, message in found for letter in title + message)


def test_the_summary_has_the_verdict_and_stays_below_githubs_limit() -> None:
    summary = markdown.render_summary(golden())
    assert summary.startswith("# ❌ ")
    assert summary.endswith("\n\n")
    assert "PVH-CR4-ZERO" in summary
    cut = markdown.render_summary(golden(), 1500)
    assert len(cut.encode()) <= 1500
    assert "left out" in cut
