"""JSON answers against the schemas in the package, for every example that the rules bring."""

import json
from typing import Any

import pytest

from pvhdbg.commands.declare import Context
from pvhdbg.commands.table import COMMANDS
from pvhdbg.decode.snapshot_file import encode
from pvhdbg.report import json_report
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.examples import Example, at_draft_a_entry, at_entry
from pvhdbg.spec.revisions import DRAFT_A, REVISIONS, V1
from tests.support.schemas import validator


def report_of(example: Example, spec: str = "v1") -> Report:
    boot = example.boot(REVISIONS[spec])
    return Report(boot, judge(boot))


@pytest.mark.slow
@pytest.mark.parametrize("rule", MACHINE_RULES, ids=lambda rule: rule.id)
def test_every_example_meets_the_schema(rule: Any) -> None:
    for example in (*rule.passes, *rule.fails):
        for spec in rule.revisions:
            document = json.loads(json_report.render(report_of(example, spec)))
            validator("report").validate(document)
            validator("snapshot").validate(json.loads(encode(example.snapshot())))


@pytest.mark.parametrize("example", [at_entry(segments=False, unobserved=["cr0", "cr4", "efer", "eflags"]), at_entry(kernel=None)])
def test_what_was_not_observed_is_null_with_a_reason(example: Example) -> None:
    document = json_report.document(report_of(example))
    validator("report").validate(document)
    if example.changes.get("unobserved"):
        assert document["registers"]["cr0"] is None
        assert document["registers_missing"]
        assert document["segments"]["tr"]["limit"] is None
        assert document["segments"]["tr"]["missing"]


def test_numbers_and_addresses_have_their_forms() -> None:
    document = json_report.document(report_of(at_entry()))
    info = document["start_info"]
    assert document["schema"] == "pvhdbg/report/1"
    assert document["registers"]["ebx"] == info["address"] == "0x6000"
    assert (info["version"], info["nr_modules"], info["memmap_entries"]) == (1, 1, 3)
    assert info["memory_map"][0] == {"addr": "0x0", "size": "0x9fc00", "type": 1, "type_name": "RAM", "reserved": "0x0"}
    assert info["command_line"] == "console=ttyS0"
    assert document["segments"]["tr"]["limit"] == "0x67"
    assert document["summary"]["fail"] == 0
    assert document["exit_code"] == 0
    assert document["protocol"] == {"name": "pvh", "revision": "v1", "remarks": []}


def test_64_bit_registers_have_64_bit_names() -> None:
    linux64 = next(rule for rule in MACHINE_RULES if rule.id == "PVH-ALT-LINUX64").fails[0]
    document = json_report.document(report_of(linux64))
    assert document["protocol"]["name"] == "linux64"


def test_draft_a_has_its_own_structure() -> None:
    boot = at_draft_a_entry(32).boot(DRAFT_A)
    document = json_report.document(Report(boot, judge(boot)))
    assert document["start_info"]["layout"] == "draft-a, 32-bit"
    assert document["start_info"]["command_line"] == "console=hvc0"


def test_the_catalogue_meets_its_schema() -> None:
    for kind, command, values in (("rules", "rules", {}), ("rule", "explain", {"id": "PVH-EBX-SET"})):
        answer = next(one for one in COMMANDS if one.name == command)(values, Context())
        assert answer.json is not None
        validator(kind).validate(json.loads(answer.json()))


def test_hostile_text_stays_inside_its_string() -> None:
    line = b'"}\n\x1b[2J\xff\0'
    document = json.loads(json_report.render(report_of(at_entry(command_line=line))))
    assert document["start_info"]["command_line"] == '"}\n\x1b[2J\\xff'
    assert "\x1b" not in json_report.render(report_of(at_entry(command_line=line)))


def test_v1_is_the_default_document() -> None:
    assert json_report.document(report_of(at_entry()))["spec"] == V1.name
