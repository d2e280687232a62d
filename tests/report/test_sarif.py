"""SARIF against the published schema, and against what the schema cannot say."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.text import SafeText
from pvhdbg.report import sarif
from pvhdbg.report.document import Report
from pvhdbg.report.sarif import About, Location, Region
from pvhdbg.rules.catalogue import MACHINE_RULES, RULES, judge
from pvhdbg.rules.declare import Outcome, Verdict, Violation
from pvhdbg.rules.examples import Example, at_entry
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.spec.revisions import V1
from tests.support.sorting import examples

SCHEMA = Path(__file__).parent / "schemas" / "sarif-2.1.0.json"
KERNEL = Location("out/vmlinux", "file:///home/me/linux/")


@lru_cache
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def report_of(example: Example, strict: bool = False) -> Report:
    boot = example.boot(V1)
    return Report(boot, judge(boot), strict, (SafeText("the kernel was not seen"),))


def run_of(example: Example, location: Location | None = KERNEL) -> Any:
    log = json.loads(sarif.render(report_of(example), location))
    validator().validate(log)
    return log["runs"][0]


@pytest.mark.slow
def test_every_failing_example_meets_the_schema_and_the_standards_prose() -> None:
    for rule in MACHINE_RULES:
        run = run_of(rule.fails[0])
        rules = run["tool"]["driver"]["rules"]
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert (result["level"] == "none") == (result["kind"] != "fail")  # 3.27.10
            assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uriBaseId"] in run["originalUriBaseIds"]
        assert len({one["id"] for one in rules}) == len(rules) == len(MACHINE_RULES)


def test_a_rule_is_described_by_its_declaration() -> None:
    declared = {rule.id: rule for rule in RULES}
    for shown in run_of(at_entry())["tool"]["driver"]["rules"]:
        rule = declared[shown["id"]]
        assert shown["shortDescription"]["text"] == rule.title.replace("{", "{{").replace("}", "}}")
        assert shown["helpUri"] == rule.clause.document.url
        assert rule.clause.words in shown["properties"]["clause"]
        assert shown["defaultConfiguration"]["level"] == {"MUST": "error", "SHOULD": "warning", "INFO": "note"}[rule.severity.value]
        assert shown["fullDescription"]["text"].split()[0] == rule.why.split()[0]


def test_a_violation_is_an_error_with_what_was_expected_and_found() -> None:
    run = run_of(at_entry(cr0=0x80000011))
    failed = [result for result in run["results"] if result["kind"] == "fail"]
    assert failed
    assert all("expected" in result["message"]["text"] and "found" in result["message"]["text"] for result in failed)
    assert {result["level"] for result in failed} <= {"error", "warning"}
    assert run["invocations"][0]["exitCode"] == 1
    assert run["properties"]["summary"]["fail"] == len(failed)
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "the kernel was not seen"


def test_what_passed_or_does_not_apply_is_no_result_and_the_undecided_is_open() -> None:
    report = report_of(at_entry(segments=False))
    run = run_of(at_entry(segments=False))
    shown = [verdict for verdict in report.verdicts if verdict.outcome not in (Outcome.PASS, Outcome.NOT_APPLICABLE)]
    assert [result["ruleId"] for result in run["results"]] == [verdict.rule.id for verdict in shown]
    assert all(result["kind"] == "open" for result in run["results"] if result["ruleId"] == "PVH-TR-LIMIT")


def test_a_deviation_on_record_is_suppressed_with_its_reason() -> None:
    rules = {rule.id: rule for rule in RULES}
    for one in DEVIATIONS:
        rule, violation = rules[one.rule], Violation("here", "this", next(iter(one.found or ("anything",))))
        log = sarif.document([Verdict(rule, Outcome.KNOWN, rule.severity, (violation,), one.why, one)])
        validator().validate(log)
        (result,) = log["runs"][0]["results"]
        assert result["kind"] == "fail"
        assert result["suppressions"][0]["status"] == "accepted"
        assert one.key in result["suppressions"][0]["justification"]


def test_regions_of_a_binary_and_of_a_text() -> None:
    verdict = Verdict(RULES[0], Outcome.FAIL, RULES[0].severity, (Violation("p_paddr", "a", "b"),))
    log = sarif.document([verdict], Location("a%20b/vmlinux"), About(1), lambda _: (Region(offset=64, size=56), Region(line=3)))
    validator().validate(log)
    places = [place["physicalLocation"] for place in log["runs"][0]["results"][0]["locations"]]
    assert [place["region"] for place in places] == [{"byteOffset": 64, "byteLength": 56}, {"startLine": 3}]
    assert "originalUriBaseIds" not in log["runs"][0]
    assert "uriBaseId" not in places[0]["artifactLocation"]


def test_nothing_to_say_is_a_log_without_results() -> None:
    log = sarif.document([])
    validator().validate(log)
    assert log["runs"][0]["results"] == []


def test_an_alert_keeps_its_fingerprint_while_the_values_change() -> None:
    def prints(limit: int) -> list[str]:
        return [r["partialFingerprints"]["primaryLocationLineHash"] for r in run_of(at_entry(tr_limit=limit, cr4=1))["results"]]

    assert prints(1) == prints(2)
    assert len(set(prints(1))) == len(prints(1)) > 1


@settings(max_examples=examples(60), deadline=None)
@given(st.text())
def test_foreign_text_makes_no_link_and_no_placeholder(text: str) -> None:
    verdict = Verdict(RULES[0], Outcome.FAIL, RULES[0].severity, (Violation("cmdline", "x", text + "[here](http://x) {0}"),))
    log = json.loads(json.dumps(sarif.document([verdict])))
    message = log["runs"][0]["results"][0]["message"]["text"]
    assert "](" not in message
    assert "{" not in message.replace("{{", "")
    assert all(letter.isprintable() or letter == "\n" for letter in message)


@pytest.mark.parametrize("line", [b"\xff\x00", b"</script>\0", "\u202e\u2066x\0".encode()])
def test_hostile_command_lines_meet_the_schema(line: bytes) -> None:
    run_of(at_entry(command_line=line), None)
