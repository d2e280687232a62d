"""JUnit XML against both of Jenkins' schemas, and against the exit code."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from pvhdbg.decode.text import safe
from pvhdbg.report import junit
from pvhdbg.report.document import Report
from pvhdbg.report.listing import of_boot
from pvhdbg.rules.catalogue import MACHINE_RULES, choose, judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import at_entry
from pvhdbg.spec.revisions import V1
from tests.report.reports import HOSTILE, failing, golden, hostile, report_of

SCHEMAS = Path(__file__).parent / "schemas"


@lru_cache
def schema(name: str) -> Any:
    return etree.XMLSchema(etree.parse(SCHEMAS / name))


def suite_of(report: Report) -> Any:
    whole = etree.fromstring(junit.render(of_boot(report)).encode())
    for name in ("junit-10.xsd", "junit-4.xsd"):
        schema(name).assertValid(whole)
    (suite,) = whole
    return suite


def cases(suite: Any) -> dict[str, Any]:
    return {case.get("name").split(":")[0]: case for case in suite.iter("testcase")}


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_cases_fail_exactly_when_the_exit_code_says_so(strict: bool) -> None:
    for report in failing(strict):
        suite = suite_of(report)
        failures, errors = len(suite.findall("testcase/failure")), len(suite.findall("testcase/error"))
        assert (failures > 0) == (report.exit_code == 1)
        assert (failures + errors > 0) == (report.exit_code != 0)
        assert (suite.get("failures"), suite.get("errors")) == (str(failures), str(errors))
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert set(cases(suite)) - {"conclusion"} == {rule.id for rule in MACHINE_RULES}
        assert ("conclusion" in cases(suite)) <= (report.boot.other_protocol is not None)


def test_each_outcome_has_its_element() -> None:
    suite = suite_of(golden())
    found = cases(suite)
    assert found["PVH-CR4-ZERO"].find("failure").get("message") == "cr4: expected 0x0, found 0x20 (PAE)"
    assert "read-modify-write" in found["PVH-CR4-ZERO"].find("failure").text
    assert found["PVH-TR-LIMIT"].find("skipped").text.startswith("known deviation: tr.limit: expected 0x67, found 0xffff")
    assert found["PVH-EFER-LMA"].find("skipped").text.startswith("undecided: efer was not observed")
    assert found["PVH-ESP"].find("system-out").text.startswith("esp:")
    assert len(found["PVH-CR0-PE"]) == 0
    assert found["DA-EAX"].find("skipped").text.startswith("does not apply: ")
    assert found["PVH-TR-LIMIT"].get("classname") == "pvh.segments"
    assert suite.get("name") == "PVH vmlinux on QEMU 7.2.22"
    assert suite.get("timestamp") == "2026-01-02T03:04:05+00:00"
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert (properties["kernel.build_id"], properties["vmm.firmware"]) == ("3b43fad503487449", "SeaBIOS + pvh.bin")
    output = suite.findtext("system-out")
    assert "cr4 00000020  PAE" in output
    assert "Kernel panic - not syncing: <no init>" in output
    assert "bzImage" in suite.findtext("system-err")


def test_another_protocol_fails_a_case_even_when_its_rule_was_not_chosen() -> None:
    linux64 = next(rule for rule in MACHINE_RULES if rule.id == "PVH-ALT-LINUX64").fails[0].boot(V1)
    report = Report(linux64, judge(linux64, choose(["PVH-CR0"])))
    assert report.exit_code == 1
    assert cases(suite_of(report))["conclusion"].find("failure").text == report.conclusion


def test_hostile_text_is_text() -> None:
    suite = suite_of(hostile())
    assert {element.tag for element in suite.iter()} <= {
        "testsuite", "testcase", "properties", "property", "failure", "error", "skipped", "system-out", "system-err"
    }  # fmt: skip
    assert "<script>alert(1)</script>" in suite.findtext("system-out")
    assert safe(HOSTILE.split("\n")[0]) in suite.findtext("system-err")
    assert all(letter.isprintable() or letter in "\n\t" for letter in "".join(suite.itertext()))


def test_nothing_observed_is_still_a_document() -> None:
    suite_of(report_of(at_entry(segments=False, kernel=None, backing=None, unobserved=["cr0", "cr4", "efer", "ebx", "eflags"])))
    assert Outcome.UNKNOWN in {verdict.outcome for verdict in golden().verdicts}
