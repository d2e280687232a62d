"""Files of expectations as parsed TOML: what they may say, and where an error says that it is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.errors import BadInput
from pvhdbg.expect.conditions import OPERATORS
from pvhdbg.expect.expectations import BOUND, Expectations, read
from pvhdbg.expect.fields import ValueKind
from pvhdbg.expect.judging import MilestoneResult, judged, milestone_verdicts, rules
from pvhdbg.expect.quantity import number, size_words
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome, Severity, Verdict
from pvhdbg.rules.examples import Example, at_entry
from pvhdbg.spec.revisions import V1


def expecting(**one: Any) -> dict[str, Any]:
    return {"expect": [one]}


def verdict_on(example: Example, field: str, **conditions: Any) -> Verdict:
    """The verdict of one expectation; operators that are not identifiers are given as `eq`, `ge` and so on."""
    symbols = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    named = {symbols.get(name, name.rstrip("_")): value for name, value in conditions.items()}
    file = read(expecting(field=field, **named), "boot.toml")
    verdicts, _ = judged(file, example.boot(V1), ())
    return verdicts[0]


@pytest.mark.parametrize(
    ("field", "conditions", "passes"),
    [
        ("registers.cr4", {"eq": 0}, True),
        ("registers.cr4", {"ne": 0}, False),
        ("registers.cr0", {"eq": "0x11"}, True),
        ("registers.cr0", {"in_": [1, "0x11"]}, True),
        ("registers.cr0", {"in_": [1, 2]}, False),
        ("registers.cr0", {"ge": 17, "lt": 18}, True),
        ("registers.cr0", {"gt": 17}, False),
        ("registers.cr0", {"le": 16}, False),
        ("memory_map.ram", {"ge": "400M"}, True),
        ("memory_map.ram", {"ge": "512M"}, False),
        ("memory_map.ram", {"gt": "400MiB", "lt": "1G"}, True),
        ("command_line", {"matches": r"^console=\w+$"}, True),
        ("command_line", {"matches": "quiet"}, False),
        ("command_line", {"contains": "ttyS"}, True),
        ("command_line", {"eq": "console=ttyS0"}, True),
        ("command_line", {"ne": "console=ttyS0"}, False),
        ("modules[0].kind", {"eq": "zeros"}, True),
        ("modules[0].kind", {"exists": True}, True),
        ("modules[0].kind", {"exists": False}, False),
        ("modules[1].kind", {"exists": False}, True),
        ("modules[1].kind", {"exists": True}, False),
        ("modules[1].kind", {"eq": "cpio"}, False),
        ("modules[1].kind", {"ne": "cpio"}, False),
        ("a20", {"eq": True}, True),
        ("a20", {"eq": False}, False),
    ],
)
def test_a_condition_holds_or_not(field: str, conditions: dict[str, Any], passes: bool) -> None:
    verdict = verdict_on(at_entry(), field, **conditions)
    assert verdict.outcome is (Outcome.PASS if passes else Outcome.FAIL)
    assert bool(verdict.violations) is not passes
    assert all(one.at == field and one.found for one in verdict.violations)


def test_what_was_not_observed_is_undecided() -> None:
    verdict = verdict_on(at_entry(unobserved=("efer",)), "registers.efer", eq=0)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "efer" in verdict.reason


def test_a_violation_shows_both_sides() -> None:
    one = verdict_on(at_entry(), "memory_map.ram", ge="2G").violations[0]
    assert (one.expected, one.found) == (">= 0x80000000 (2G)", "0x1ff9fc00 (523903K)")


@pytest.mark.parametrize(
    ("document", "place", "words"),
    [
        ({"expct": []}, "expct", "did you mean expect"),
        ({"milestone": [{}]}, "milestone[0]", "either reaches"),
        ({"milestone": [{"reaches": "a", "serial": "b"}]}, "milestone[0]", "either reaches"),
        ({"milestone": {"reaches": "a"}}, "milestone", "[[milestone]]"),
        ({"milestone": [{"reaches": "a"}, {"reaches": 3}]}, "milestone[1].reaches", "text in quotes"),
        ({"milestone": [{"serial": "("}]}, "milestone[0].serial", "regular expression"),
        ({"milestone": [{"reaches": "a", "timeout": 0}]}, "milestone[0].timeout", "seconds"),
        ({"milestone": [{"reaches": "a", "timeout": True}]}, "milestone[0].timeout", "seconds"),
        ({"milestone": [{"reaches": "a", "timeout": float("nan")}]}, "milestone[0].timeout", "seconds"),
        ({"milestone": [{"reaches": "a", "max_instructions": 0}]}, "milestone[0].max_instructions", "whole number"),
        ({"milestone": [{"reaches": "a", "max_instructions": True}]}, "milestone[0].max_instructions", "whole number"),
        ({"milestone": [{"reaches": "a", "max_instructions": 1.5}]}, "milestone[0].max_instructions", "whole number"),
        ({"milestone": [{"reaches": "a", "max_instructions": 1 << 40}]}, "milestone[0].max_instructions", "whole number"),
        ({"milestone": [{"serial": "a", "max_instructions": 9}]}, "milestone[0].max_instructions", "it needs reaches"),
        ({"milestone": [{"reach": "a"}]}, "milestone[0].reach", "did you mean reaches?"),
        ({"expect": {}}, "expect", "[[expect]]"),
        ({"expect": [{}] * (BOUND + 1)}, "expect", "1001"),
        ({"expect": [3]}, "expect[0]", "table"),
        (expecting(), "expect[0].field", "missing"),
        (expecting(field=3), "expect[0].field", "text"),
        (expecting(field="a20"), "expect[0]", "it has no condition"),
        (expecting(field="a2O", exists=True), "expect[0].field", "did you mean a20"),
        ({"expect": [{"field": "a20", "exists": True}, {"field": "a20", "matche": "x"}]}, "expect[1].matche", "matches"),
        (expecting(field="a20", matches="x"), "expect[0].matches", "true or false"),
        (expecting(field="command_line", matches="("), "expect[0].matches", "regular expression"),
        (expecting(field="command_line", matches=3), "expect[0].matches", "text"),
        (expecting(field="command_line", **{"<": "x"}), "expect[0].<", "text"),
        (expecting(field="registers.cr0", **{"==": "many"}), "expect[0].==", "400M"),
        (expecting(field="registers.cr0", **{"==": 1.5}), "expect[0].==", "fraction"),
        (expecting(field="registers.cr0", **{"==": True}), "expect[0].==", "true or false"),
        (expecting(field="registers.cr0", **{"==": -1}), "expect[0].==", "a number"),
        (expecting(field="registers.cr0", **{"==": 1 << 64}), "expect[0].==", "a number"),
        (expecting(field="registers.cr0", **{"==": "999999999T"}), "expect[0].==", "400M"),
        (expecting(field="registers.cr0", **{"in": []}), "expect[0].in", "list"),
        (expecting(field="registers.cr0", **{"in": [1, "x"]}), "expect[0].in", "400M"),
        (expecting(field="a20", exists="yes"), "expect[0].exists", "true or false"),
        (expecting(field="a20", exists=True, why=3), "expect[0].why", "text"),
        ({"allow": ["PVH-TR-LIMIT"]}, "allow[0]", "reason"),
        ({"allow": [{"rule": "PVH-TR-LIMIT"}]}, "allow[0].reason", "missing"),
        ({"allow": [{"rule": "PVH-TR-LIMIT", "reason": ""}]}, "allow[0].reason", "text"),
        ({"allow": [{"rule": "PVH-TR", "reason": "x"}]}, "allow[0].rule", "PVH-TR-"),
        ({"allow": [{"rule": "PVH-ESP", "reason": "x"}] * 2}, "allow[1].rule", "twice"),
        ({"machine": 3}, "machine", "table"),
        ({"machine": {"memroy": "1G"}}, "machine.memroy", "did you mean memory"),
        ({"machine": {"memory": 512}}, "machine.memory", "quotes"),
        ({"machine": {"cpus": 0}}, "machine.cpus", "1"),
        ({"machine": {"cpus": True}}, "machine.cpus", "number"),
        ({"machine": {"accel": "hvf"}}, "machine.accel", "kvm"),
        ({"machine": {"extra": "-s"}}, "machine.extra", "list"),
        ({"machine": {"\x1b[31m": 1}}, "machine.\\x1b[31m", "no such key"),
    ],
)
def test_an_error_names_its_place(document: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        read(document, "boot.toml")
    assert error.value.what.startswith(f"boot.toml: {place}: "), error.value.what
    assert words in error.value.what
    assert "\n" not in error.value.what
    assert "\x1b" not in error.value.what
    assert error.value.exit_code == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["field", "rule", *OPERATORS]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["expect", "allow", "machine"]), JSON)
    | st.lists(st.dictionaries(st.sampled_from([*OPERATORS, "why"]), JSON).map(lambda one: {"field": "command_line", **one})).map(
        lambda rows: {"expect": rows}
    )
)
def test_any_document_is_expectations_or_a_bad_input(document: dict[str, Any]) -> None:
    try:
        file = read(document, "boot.toml")
    except BadInput as error:
        assert "\n" not in error.what  # noqa: PT017 - any other exception fails the test
        return
    boot = at_entry().boot(V1)
    verdicts, _ = judged(file, boot, judge(boot))
    assert len(verdicts) >= len(file.expected)


# --- what is allowed ----------------------------------------------------------------------------------------------


def allowing(*rules: str) -> Expectations:
    return read({"allow": [{"rule": rule, "reason": "we know"} for rule in rules]}, "boot.toml")


def test_an_allowed_violation_does_not_fail_and_says_why() -> None:
    boot = at_entry(cr4=0x20).boot(V1)
    plain = Report(boot, judge(boot), strict=True)
    assert plain.exit_code == 1
    wrong = [verdict.rule.id for verdict in plain.verdicts if verdict.outcome is Outcome.FAIL]
    verdicts, notes = judged(allowing(*wrong), boot, plain.verdicts)
    assert Report(boot, verdicts, strict=True).exit_code == 0
    assert notes == ()
    excused = next(verdict for verdict in verdicts if verdict.rule.id == wrong[0])
    assert (excused.outcome, excused.severity) == (Outcome.REMARK, Severity.INFO)
    assert excused.violations
    assert excused.reason == "allowed by boot.toml: we know"


def test_an_allowance_for_nothing_is_told() -> None:
    boot = at_entry().boot(V1)
    _, notes = judged(allowing("PVH-TR-LIMIT"), boot, judge(boot))
    assert notes == ("boot.toml allows PVH-TR-LIMIT, which is not violated here",)


def test_an_undecided_rule_that_is_allowed_stays_undecided() -> None:
    boot = at_entry(unobserved=("cr4",)).boot(V1)
    undecided = [verdict for verdict in judge(boot) if verdict.outcome is Outcome.UNKNOWN]
    verdicts, _ = judged(allowing(*(verdict.rule.id for verdict in undecided)), boot, judge(boot))
    assert [v.outcome for v in verdicts if v.outcome is Outcome.UNKNOWN] == [Outcome.UNKNOWN] * len(undecided)
    assert Report(boot, verdicts, strict=True).exit_code == 0
    assert Report(boot, judge(boot), strict=True).exit_code == 4


# --- reports ------------------------------------------------------------------------------------------------------


def test_the_conclusion_tells_expectations_from_the_abi() -> None:
    file = read(expecting(field="registers.cr0", **{"==": 1}), "boot.toml")
    for boot, said in (
        (at_entry().boot(V1), "1 expectation NOT met"),
        (at_entry(cr4=0x20).boot(V1), "the hand-off VIOLATES the PVH boot ABI; 1 expectation NOT met"),
    ):
        verdicts, _ = judged(file, boot, judge(boot))
        report = Report(boot, verdicts)
        assert (report.conclusion, report.exit_code) == (said, 1)


def test_text_of_the_file_stays_on_its_line() -> None:
    hostile = "x\n\x1b[31m"
    file = read(expecting(field="command_line", **{"==": hostile, "why": hostile}), f"{hostile}.toml")
    rule = rules(file)[0]
    assert all(part.isprintable() for part in (rule.title, rule.why, rule.clause.document.name, rule.clause.words))
    assert rule.clause.document.url == "x%0A%1B%5B31m.toml"


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("31", 31), ("0x1f", 31), ("400M", 400 << 20), ("1G", 1 << 30), ("2TiB", 2 << 40), ("4 k", None), ("4k", 4096), ("4KB", 4096),
     ("", None), ("M", None), ("-1", None), ("1_000", None), ("٣", None), ("16777216T", None)],
)  # fmt: skip
def test_sizes(text: str, value: int | None) -> None:
    assert number(text) == value


@given(st.integers(0, (1 << 64) - 1))
def test_a_size_in_words_is_that_size(value: int) -> None:
    assert number(size_words(value)) == value


def test_each_operator_is_for_some_kind() -> None:
    assert all(one.kinds <= set(ValueKind) and one.kinds for one in OPERATORS.values())


@pytest.mark.parametrize(
    ("ran", "counted", "outcome", "words"),
    [
        (20, 30, Outcome.PASS, ""),
        (21, 30, Outcome.FAIL, "21"),
        (None, 20, Outcome.FAIL, "more than 20"),
        (None, 19, Outcome.UNKNOWN, "counted only up to 19"),
        (None, 0, Outcome.UNKNOWN, "not counted"),
    ],
)
def test_a_budget_is_judged_by_what_was_counted(ran: int | None, counted: int, outcome: Outcome, words: str) -> None:
    expectations = read({"milestone": [{"reaches": "long", "max_instructions": 20}]}, "boot.toml")
    (milestone,) = expectations.milestones
    (verdict,) = milestone_verdicts(expectations, [MilestoneResult(milestone, 0.1, "", ran, counted)])
    assert verdict.outcome is outcome
    assert words in (verdict.reason or "".join(one.found for one in verdict.violations))
    assert verdict.rule.title == "reaches long within 30 s and 20 instructions"
