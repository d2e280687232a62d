"""Every rule seen failing and passing on a real machine, by the sample guest `bad_loader` and its declared defects.

What a defect makes of the rules is declared next to its code. Each declaration is held against a boot of its own; what is
then said of all of them together (every rule has a defect) needs no further boots.
"""

import json
import shlex
import subprocess
import sys
from collections import defaultdict

import pytest

from pvhdbg import api, guests
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.capture import capture
from pvhdbg.machine.entry_search import Plan
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.declare import Outcome, Severity
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave
from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support import defects as declarations
from tests.support.cli_runner import ROOT, outcomes
from tests.support.debugged import EXIT_DEVICE, debugged
from tests.support.defects import GUEST, Defect, matching

ENTRY = "second_entry"
BINDING = {rule.id for rule in MACHINE_RULES if rule.severity is not Severity.INFO}
DEFECTS = declarations.declared()
CORRECT = [defect for defect in DEFECTS if not defect.spoils]

# By its noted entry a kernel is entered where its note says: only a look elsewhere (--here) sees another eip. Where a kernel is
# loaded and what becomes of its bytes is over when this guest begins.
LOADED = {"PVH-LOAD-RAM", "PVH-LOAD-BYTES", "PVH-LOAD-BSS"}  # by tests/machine/test_image_in_memory.py
FAILED_ELSEWHERE = {"PVH-EIP-NOTE", *LOADED}  # by test_an_entry_that_is_not_the_noted_one

# Rules that no guest under QEMU can make fail, with the reason: there is none. Single clauses that a CPU keeps by itself are
# listed in the guest's header.
NO_GUEST_CAN: dict[str, str] = {}


def handed_over(defect: Defect, **options: object) -> dict[Outcome, set[str]]:
    """The rules by outcome at the second entry, after a hand-off with that defect."""
    report = api.check(str(GUEST), append=f"defect={defect.name}", entry=ENTRY, **{**defect.needs, **options})
    return by_outcome(report)


def by_outcome(report: Report) -> dict[Outcome, set[str]]:
    found: dict[Outcome, set[str]] = defaultdict(set)
    for verdict in report.verdicts:
        found[verdict.outcome].add(verdict.rule.id)
    return found


# --- the declarations ---------------------------------------------------------------------------------------------


def test_the_declarations_speak_of_rules_that_there_are() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    for defect in DEFECTS:
        assert defect.what
        assert defect.what.startswith("nothing: ") == (not defect.spoils)
        assert not defect.spoils or defect.spoils in BINDING
        for pattern in (*defect.also, *defect.hides):
            assert matching((pattern,), BINDING), f"{defect}: {pattern}"
        assert defect.needs.keys() <= {"spec", "memory", "machine"}


def test_every_rule_that_binds_has_a_boot_that_fails_it() -> None:
    failed = {defect.spoils for defect in DEFECTS if defect.spoils} | FAILED_ELSEWHERE
    assert BINDING - failed - NO_GUEST_CAN.keys() == set(), "give each a defect, or say why no guest can produce it"
    failed_at_all = failed | {id for defect in DEFECTS for id in matching(defect.also, BINDING)}
    assert NO_GUEST_CAN.keys() & failed_at_all == set(), "a guest does produce these"
    assert NO_GUEST_CAN.keys() <= BINDING
    assert all(NO_GUEST_CAN.values())


def test_the_page_lists_what_is_declared() -> None:
    assert declarations.page_and_table()[1] == declarations.table(), "run: PYTHONPATH=. python tests/support/defects.py"


# --- the boots ----------------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_a_defect_is_named_by_its_rule_and_by_no_other(defect: Defect) -> None:
    found = handed_over(defect)
    spoilt = {defect.spoils} - {""}
    failed = found[Outcome.FAIL]
    assert failed == spoilt | matching(defect.also, failed)
    assert [pattern for pattern in defect.also if not matching((pattern,), failed)] == []
    undecided = found[Outcome.UNKNOWN] & BINDING
    assert undecided == matching(defect.hides, undecided)
    assert [pattern for pattern in defect.hides if not matching((pattern,), undecided)] == []
    assert found[Outcome.KNOWN] == set()  # what QEMU is known to do wrong excuses nothing that a guest made
    if not spoilt:
        assert found[Outcome.REMARK] == set()


@pytest.mark.boot
def test_every_rule_that_binds_has_a_boot_that_passes_it() -> None:
    passed = by_outcome(api.check(str(guests.path("hello"))))[Outcome.PASS] & FAILED_ELSEWHERE
    for defect in CORRECT:
        passed |= handed_over(defect)[Outcome.PASS]
    assert BINDING - passed == set()


@pytest.mark.boot
def test_an_entry_that_is_not_the_noted_one() -> None:
    with open_kernel(str(GUEST)) as image:
        kernel, entry = image.kernel(), image.symbols().physical_address(ENTRY)
    with debugged(QemuOptions(GUEST)) as (_, target):
        run_until(target, [entry], 20)
        boot = capture(target, Plan(kernel=kernel, here=True))
    failed = [verdict for verdict in judge(boot) if verdict.outcome is Outcome.FAIL]
    assert {verdict.rule.id for verdict in failed} == {"PVH-EIP-NOTE"}
    assert failed[0].violations[0].found == f"{entry:#x}"


@pytest.mark.boot
@pytest.mark.parametrize("machine", ["q35", "microvm", "pc,acpi=off", "microvm,acpi=off"])
@pytest.mark.parametrize("name", ["none", "tr-limit", "eflags-vm", "memmap-wrap"])
def test_it_is_the_same_on_every_machine(machine: str, name: str) -> None:
    (defect,) = (defect for defect in DEFECTS if defect.name == name)
    assert handed_over(defect, machine=machine) == handed_over(defect)


@pytest.mark.boot
@pytest.mark.parametrize("name", ["cs-base", "eflags-vm", "cr0-pe", "cr0-pg"])
def test_gdb_sees_the_same(name: str) -> None:
    (defect,) = (defect for defect in DEFECTS if defect.name == name)
    assert handed_over(defect, via="gdb") == handed_over(defect)


# --- the command line ---------------------------------------------------------------------------------------------


def pvhdbg(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pvhdbg", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.boot
def test_a_correct_hand_off_is_better_than_qemus() -> None:
    ended = pvhdbg("check", str(GUEST), "--append", "quiet defect=none", "--entry", ENTRY, "--strict", "--format", "json")
    document = json.loads(ended.stdout)
    assert ended.returncode == 0  # QEMU's own hand-off exits 1 here: its task register is KNOWN
    assert document["segments"]["tr"]["limit"] == "0x67"
    assert document["entry"]["symbol"] == ENTRY
    assert outcomes(document)["PVH-EIP-NOTE"] == "not_applicable"


@pytest.mark.boot
def test_without_a_word_the_hand_off_is_correct() -> None:
    for words in ((), ("--append", "defective=cr0-wp"), ("--append", "defect=none defect=cr0-wp")):
        assert pvhdbg("check", str(GUEST), *words, "--entry", ENTRY).returncode == 0


@pytest.mark.boot
@pytest.mark.parametrize("word", ["defect=nosuch", "defect=", "defect=cr0-w", "defect=cr0-wpx"])
def test_an_unknown_defect_is_refused_with_the_list_of_all(word: str) -> None:
    name = word.removeprefix("defect=")
    wish = QemuOptions(GUEST, append=f"a {word} z", extra=EXIT_DEVICE)
    with start(wish) as qemu:
        RemoteTarget.connect(StubAddress(path=qemu.gdb_socket)).close(Leave.RUNNING)
        assert qemu.wait(10) == 35
        said = qemu.serial_log.read_text()
    assert said.splitlines()[0] == f"bad_loader: there is no {name}"
    assert said.splitlines()[1].removeprefix("there are: ").split() == [defect.name for defect in DEFECTS]


@pytest.mark.boot
def test_an_unknown_defect_does_not_keep_a_debugger_waiting() -> None:
    ended = pvhdbg("check", str(GUEST), "--append", "defect=nosuch", "--entry", ENTRY)
    assert ended.returncode == 3
    assert "the guest shut down or triple-faulted" in ended.stderr
    assert "bad_loader: there is no nosuch" in ended.stderr


def console_examples() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines that the page shows of its output."""
    examples: list[tuple[str, list[str]]] = []
    for block in declarations.PAGE.read_text(encoding="utf-8").split("```console\n")[1:]:
        for line in block.partition("```")[0].splitlines():
            if line.startswith("$ "):
                examples.append((line.removeprefix("$ "), []))
            elif line != "…":
                examples[-1][1].append(line)
    return examples


@pytest.mark.boot
@pytest.mark.parametrize(("command", "shown"), console_examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_page_shows_what_is_printed(command: str, shown: list[str]) -> None:
    program, *words = shlex.split(command)
    assert program == "pvhdbg"
    ended = pvhdbg(*words)
    printed = [line.rstrip() for line in (ended.stdout + ended.stderr).splitlines()]
    assert shown
    assert [line for line in shown if not any(_is(line, one) for one in printed)] == []


def _is(shown: str, printed: str) -> bool:
    return printed.startswith(shown[:-1]) if shown.endswith("…") else printed == shown
