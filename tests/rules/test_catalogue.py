"""The declarations themselves: ids, clauses, and every example that a rule brings with it."""

from collections.abc import Iterable

import pytest

from pvhdbg.errors import BadInput
from pvhdbg.rules.catalogue import CHAPTERS, MACHINE_RULES, RULES, choose, find
from pvhdbg.rules.declare import FileRule, MachineRule, Outcome, Rule, Severity, collect
from pvhdbg.rules.examples import Example
from pvhdbg.rules.file_examples import FileExample
from pvhdbg.rules.files import FILE_RULES
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.spec.protocols import SIGNATURES
from pvhdbg.spec.revisions import REVISIONS, Revision

# The check catalogue of the ABI dossier, rows X-/-Y split.
IDS = [
    "PVH-EBX-SET",
    "PVH-EBX-MAGIC",
    "PVH-EIP-NOTE",
    "PVH-EIP-SYMBOL",
    "PVH-LOAD-RAM",
    "PVH-LOAD-BYTES",
    "PVH-LOAD-BSS",
    "PVH-CR0-PE",
    "PVH-CR0-PG",
    "PVH-CR0-REST",
    "PVH-CR0-ET",
    "PVH-CR4-ZERO",
    "PVH-EFER-LMA",
    "PVH-CS-FLAT",
    "PVH-CS-TYPE",
    "PVH-DS-FLAT",
    "PVH-DS-TYPE",
    "PVH-ES-FLAT",
    "PVH-ES-TYPE",
    "PVH-SS-FLAT",
    "PVH-SS-TYPE",
    "PVH-FSGS",
    "PVH-SEG-ACCESSED",
    "PVH-TR-TYPE",
    "PVH-TR-BASE",
    "PVH-TR-LIMIT",
    "PVH-EFL-VM",
    "PVH-EFL-IF",
    "PVH-EFL-TF",
    "PVH-EFL-DF",
    "PVH-ESP",
    "PVH-EAX-MB",
    "PVH-ALT-MB1",
    "PVH-ALT-MB2",
    "PVH-ALT-LINUX32",
    "PVH-ALT-LINUX64",
    "PVH-ALT-PV",
    "PVH-ALT-DRAFTA",
    "SI-VERSION-KNOWN",
    "SI-VERSION-0",
    "SI-FLAGS-KNOWN",
    "SI-FLAGS-PVH",
    "SI-RESERVED-0",
    "SI-MOD-PAIR",
    "SI-MOD-PADDR",
    "SI-MOD-SIZE",
    "SI-MOD-RAM",
    "SI-MOD-CMDLINE",
    "SI-MOD-RESERVED",
    "SI-CMDLINE-NUL",
    "SI-CMDLINE-ASCII",
    "SI-CMDLINE-LEN-QEMU",
    "SI-RSDP-SIG",
    "SI-RSDP-CKSUM",
    "SI-RSDP-ALIGN",
    "SI-RSDP-TABLES",
    "SI-RSDP-ZERO",
    "SI-MM-PRESENT",
    "SI-MM-PADDR",
    "SI-MM-COUNT",
    "SI-MM-TYPE",
    "SI-MM-SIZE0",
    "SI-MM-WRAP",
    "SI-MM-RESERVED",
    "SI-MM-PAGES",
    "SI-MM-SORTED",
    "SI-MM-OVERLAP",
    "SI-MM-RAM1M",
    "SI-4G",
    "SI-OVERLAP",
    "SI-ALIGN",
    "DA-ESI",
    "DA-EAX",
    "DA-MAGIC",
    "DA-CR0",
    "DA-FSGS",
    "DA-A20",
    "ELF-NOTE-18",
    "ELF-NOTE-OWNER",
    "ELF-NOTE-DESC",
    "ELF-NOTE-PTNOTE",
    "ELF-NOTE-PALIGN",
    "ELF-NOTE-LASTSEG",
    "ELF-NOTE-UNIQUE",
    "ELF-ENTRY-RANGE",
    "ELF-E_ENTRY",
    "ELF-CLASS",
    "ELF-MACHINE",
    "ELF-MULTIBOOT",
    "ELF-RELOC",
    "ELF-PADDR",
]
BY_ID = {rule.id: rule for rule in RULES}


def revision_for(rule: MachineRule) -> Revision:
    return REVISIONS["v1"] if "v1" in rule.revisions else REVISIONS["draft-a"]


def examples(kind: str, rules: Iterable[Rule] = MACHINE_RULES) -> list[object]:
    return [
        pytest.param(rule, example, id=f"{rule.id}-{index}") for rule in rules for index, example in enumerate(getattr(rule, kind))
    ]


def test_the_ids_are_exactly_those_of_the_catalogue() -> None:
    assert sorted(BY_ID) == sorted(IDS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_explains_itself(rule: Rule) -> None:
    assert len(rule.why) > 40
    assert rule.clause.words
    assert rule.clause.document.url.startswith("https://")
    assert isinstance(rule, MachineRule | FileRule)
    assert rule.passes
    assert rule.fails
    assert rule.revisions


@pytest.mark.parametrize(("rule", "example"), examples("passes"))
def test_passing_examples_pass(rule: MachineRule, example: Example) -> None:
    verdict = rule.judge(example.boot(revision_for(rule)))
    assert verdict.outcome in (Outcome.PASS, Outcome.NOT_APPLICABLE), verdict
    assert not verdict.violations


@pytest.mark.parametrize(("rule", "example"), examples("fails"))
def test_failing_examples_fail(rule: MachineRule, example: Example) -> None:
    verdict = rule.judge(example.boot(revision_for(rule)))
    assert verdict.outcome is (Outcome.REMARK if rule.severity is Severity.INFO else Outcome.FAIL), verdict
    assert verdict.violations
    for violation in verdict.violations:
        assert violation.at
        assert violation.expected != violation.found


@pytest.mark.parametrize(("rule", "example"), examples("passes", FILE_RULES))
def test_passing_files_pass(rule: FileRule, example: FileExample) -> None:
    verdict = rule.judge(example.kernel())
    assert verdict.outcome is Outcome.PASS, verdict


@pytest.mark.parametrize(("rule", "example"), examples("fails", FILE_RULES))
def test_failing_files_fail_and_say_what_to_change(rule: FileRule, example: FileExample) -> None:
    verdict = rule.judge(example.kernel())
    assert verdict.outcome is (Outcome.REMARK if rule.severity is Severity.INFO else Outcome.FAIL), verdict
    for violation in verdict.violations:
        assert violation.at
        assert violation.expected != violation.found
        assert violation.fix


@pytest.mark.parametrize("rule", MACHINE_RULES, ids=lambda rule: rule.id)
def test_every_rule_passes_at_least_one_example_outright(rule: MachineRule) -> None:
    outcomes = {rule.judge(example.boot(revision_for(rule))).outcome for example in rule.passes}
    assert Outcome.PASS in outcomes


def test_every_signature_with_a_rule_has_that_rule() -> None:
    assert {signature.rule for signature in SIGNATURES if signature.rule} == {id for id in IDS if id.startswith("PVH-ALT-")}


def test_every_deviation_speaks_of_a_rule_and_gives_evidence() -> None:
    for deviation in DEVIATIONS:
        assert deviation.rule in BY_ID
        assert deviation.found is None or deviation.found
        assert deviation.why
        assert deviation.source


def test_an_id_declared_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="ELF-NOTE-18"):
        collect(CHAPTERS[0][1], CHAPTERS[0][1])


def test_choosing_by_prefix() -> None:
    assert {rule.id for rule in choose(["pvh-cr0"])} == {id for id in IDS if id.startswith("PVH-CR0")}
    assert {rule.id for rule in choose(["PVH"], ["PVH-ALT"])} == {
        id for id in IDS if id.startswith("PVH") and not id.startswith("PVH-ALT")
    }


def test_a_prefix_that_chooses_nothing_is_an_error_with_the_nearest_id() -> None:
    with pytest.raises(BadInput) as error:
        choose(["PVH-TR-LIMT"])
    assert "PVH-TR-LIMIT" in error.value.todo


def test_finding_a_rule_ignores_case() -> None:
    assert find("pvh-tr-limit") is BY_ID["PVH-TR-LIMIT"]
