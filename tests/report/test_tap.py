"""TAP through Perl's own parser, and KTAP by the grammar of the kernel's documentation."""

import re
import subprocess
from pathlib import Path

import pytest

from pvhdbg.report import tap
from pvhdbg.report.document import Report
from pvhdbg.report.listing import of_boot
from pvhdbg.rules.catalogue import CHAPTERS, MACHINE_RULES, choose, judge
from pvhdbg.spec.revisions import V1
from tests.report.reports import failing, golden, hostile
from tests.support.programs import need

PARSER = Path(__file__).parent / "tap_parser.pl"


def parsed(stream: str) -> tuple[list[tuple[str, ...]], list[str], int, str]:
    """Points (number, word, directive, description), YAML details, the number that failed, parse errors."""
    need("prove")  # it comes with TAP::Parser; Debian's perl-base has neither
    ran = subprocess.run(["perl", str(PARSER)], input=stream, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr == ""
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    total = lines[-1]
    points = [tuple(line) for line in lines[:-1] if line[0].isdigit()]
    assert int(total[1]) == len(points)
    assert len(points) + sum(line[0] == "yaml" for line in lines) + 1 == len(lines)  # nothing else: no bailout
    return points, [line[1] for line in lines if line[0] == "yaml"], int(total[2]), total[3]


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_points_fail_exactly_when_the_exit_code_says_so(strict: bool) -> None:
    reports = list(failing(strict))
    for report in reports[:: len(reports) // 12]:
        points, _, failed, errors = parsed(tap.render(of_boot(report)))
        assert errors == ""
        assert len(points) == len(MACHINE_RULES) + (report.boot.other_protocol is not None)
        assert (failed > 0) == (report.exit_code != 0)


def test_each_outcome_has_its_directive() -> None:
    points, details, failed, errors = parsed(tap.render(of_boot(golden())))
    found = {point[3].split()[1]: point for point in points}
    assert (failed, errors) == (len([point for point in points if point[1:3] == ("not ok", "")]), "")
    assert found["PVH-CR4-ZERO"][1:3] == ("not ok", "")
    assert found["PVH-TR-LIMIT"][1:3] == ("not ok", "TODO")
    assert found["PVH-EFER-LMA"][1:3] == ("ok", "SKIP")
    assert found["DA-EAX"][1:3] == ("ok", "SKIP")
    assert found["PVH-CR0-PE"] == ("8", "ok", "", "- PVH-CR0-PE cr0.PE is set")
    assert details[0] == "cr4: expected 0x0, found 0x20 (PAE)"


def test_hostile_text_is_no_point_no_directive_and_no_plan() -> None:
    points, details, _, errors = parsed(tap.render(of_boot(hostile())))
    assert errors == ""
    assert [point[0] for point in points] == [str(number) for number in range(1, len(MACHINE_RULES) + 1)]
    assert not any("owned" in point[3] for point in points)
    assert any("<script>" in one for one in details)


def test_another_protocol_fails_a_point_even_when_its_rule_was_not_chosen() -> None:
    linux64 = next(rule for rule in MACHINE_RULES if rule.id == "PVH-ALT-LINUX64").fails[0].boot(V1)
    report = Report(linux64, judge(linux64, choose(["PVH-CR0"])))
    points, _, failed, errors = parsed(tap.render(of_boot(report)))
    assert (failed, errors) == (1, "")
    assert points[-1][3] == f"- {report.conclusion}"
    assert tap.render_ktap(of_boot(report)).splitlines()[-1] == f"not ok 2 {report.conclusion}"


RESULT = re.compile(r"(ok|not ok) ([0-9]+) ([^#]+?)(?: # (SKIP|XFAIL)( [^#]+)?)?")


def ktap(lines: list[str], indent: str = "") -> list[tuple[bool, str, str, list[tuple[bool, str, str]]]]:
    """The tests of one level: version, plan, then for each test its subtests and its result; all of `lines` is consumed."""
    assert lines.pop(0) == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.([0-9]+)", lines.pop(0))
    assert plan is not None
    tests = []
    for number in range(1, int(plan[1]) + 1):
        inner: list[tuple[bool, str, str]] = []
        while lines[0].startswith(f"{indent}# "):
            lines.pop(0)
        if lines[0].startswith(f"{indent}  KTAP"):
            inner = [(ok, name, directive) for ok, name, directive, _ in ktap(lines, f"{indent}  ")]
        result = RESULT.fullmatch(lines.pop(0).removeprefix(indent))
        assert result is not None
        assert int(result[2]) == number
        tests.append((result[1] == "ok", result[3], result[4] or "", inner))
    return tests


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_ktap_follows_its_grammar_and_the_exit_code(strict: bool) -> None:
    for report in failing(strict):
        lines = tap.render_ktap(of_boot(report)).splitlines()
        tests = ktap(lines)
        assert lines == []
        if report.boot.other_protocol is not None:
            assert tests.pop()[:2] == (False, report.conclusion)
        assert [name for _, name, _, _ in tests] == [title.lower().replace(" ", "_") for title, _ in CHAPTERS[1:]]
        assert sum(len(inner) for *_, inner in tests) == len(MACHINE_RULES)
        for ok, _, _, inner in tests:
            assert ok == all(one for one, _, _ in inner)
        if report.boot.other_protocol is None:
            assert all(ok for ok, *_ in tests) == (report.exit_code == 0)


def test_ktap_of_every_outcome_and_of_hostile_text() -> None:
    found = {
        name: (ok, directive)
        for *_, inner in ktap(tap.render_ktap(of_boot(golden())).splitlines())
        for ok, name, directive in inner
    }
    assert found["PVH-CR4-ZERO"] == (False, "")
    assert found["PVH-TR-LIMIT"] == (True, "XFAIL")
    assert found["PVH-EFER-LMA"] == found["DA-EAX"] == (True, "SKIP")
    lines = tap.render_ktap(of_boot(hostile())).splitlines()
    assert len(ktap(lines)) == len(CHAPTERS) - 1
    assert lines == []
