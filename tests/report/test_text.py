"""The text report: the verdict last, no raw text from outside, and no superfluous line."""

import dataclasses
import re

import pytest

from pvhdbg.report import text
from pvhdbg.report.document import Passed, Report
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.rules.catalogue import CHAPTERS, MACHINE_RULES, RULES, judge
from pvhdbg.rules.declare import MachineRule, Outcome
from pvhdbg.rules.examples import Example, at_entry
from pvhdbg.spec.revisions import REVISIONS, V1
from pvhdbg.spec.start_info import MemoryMapEntry
from tests.report.reports import report_of


def rendered(example: Example, style: Style = PLAIN) -> str:
    boot = example.boot(V1)
    return text.render(Report(boot, judge(boot)), style)


def test_the_summary_is_the_last_line() -> None:
    last = rendered(at_entry()).rstrip("\n").splitlines()[-1]
    assert last.startswith("the hand-off conforms to the PVH boot ABI: ")
    assert last.endswith("(exit 0)")


@pytest.mark.parametrize("rule", MACHINE_RULES, ids=lambda rule: rule.id)
def test_every_finding_is_shown_with_clause_and_values(rule: MachineRule) -> None:
    for example in rule.fails:
        revision = REVISIONS["v1" if "v1" in rule.revisions else "draft-a"]
        boot = example.boot(revision)
        report = Report(boot, judge(boot))
        output = text.render(report)
        for verdict in report.verdicts:
            if verdict.outcome in (Outcome.FAIL, Outcome.REMARK, Outcome.KNOWN):
                assert f"{verdict.rule.id}  {verdict.rule.title}" in output
                assert str(verdict.rule.clause) in output
            if verdict.outcome is Outcome.UNKNOWN:
                assert verdict.rule.id in output
                assert verdict.reason in output


def test_terminal_escapes_are_shown_not_sent() -> None:
    line = b"quiet \x1b]0;owned\x07 \x1b[31m\r\n\x9b0m\0"
    output = rendered(at_entry(command_line=line))
    assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert "\\x1b]0;owned\\x07" in output


def test_what_was_waited_for_is_shown_before_the_conclusion() -> None:
    passed = (Passed("long", 0.0125), Passed("a\x1b[2Jb", 2.0, "the guest died"))
    shown = text.render(dataclasses.replace(report_of(at_entry()), milestones=passed))
    assert "Milestones\n     0.013 s  long\n     2.000 s  a\\x1b[2Jb  the guest died\n\n" in shown
    assert "Milestones" not in text.render(report_of(at_entry()))


def test_colour_adds_nothing_but_colour() -> None:
    coloured = rendered(at_entry(tr_limit=1), Style(colour=True))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == rendered(at_entry(tr_limit=1))


def test_one_missing_thing_is_one_unknown_with_all_its_rules() -> None:
    output = rendered(at_entry(segments=False))
    reasons = [line for line in output.splitlines() if line.startswith("UNKNOWN")]
    assert 1 <= len(reasons) <= 6  # one for each segment register, though there are eleven rules
    assert len(set(reasons)) == len(reasons)


def test_a_picture_of_a_huge_or_wrapping_map_stays_small() -> None:
    entries = [MemoryMapEntry(index << 20, 1 << 20, index % 9, 0) for index in range(500)]
    entries.append(MemoryMapEntry((1 << 64) - 1, (1 << 64) - 1, 0xFFFFFFFF, 0))
    assert len(rendered(at_entry(memory_map=entries)).splitlines()) < 900


def test_caution_is_on_the_page_of_a_machine_as_it_stands() -> None:
    for output in (
        rendered(at_entry(found_by="here")),
        text.render_registers(at_entry(found_by="here").boot(V1)),
        text.render_info(at_entry(found_by="here").boot(V1)),
    ):
        assert "--here" in output


def test_explain_and_rules_show_the_declarations() -> None:
    for rule in RULES:
        page = text.render_rule(rule)
        assert rule.id in page
        assert rule.clause.document.url in page
        assert all(line in page for line in rule.why.splitlines())
    listing = text.render_rules(CHAPTERS)
    assert all(rule.id in listing for rule in RULES)
