"""`pvhdbg wait`, and `--until` of `check`: run the machine on from its entry, to a goal or to its death, which is explained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from textwrap import wrap as wrapped
from typing import TYPE_CHECKING

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.options import NOT_REACHED, WaitOptions
from pvhdbg.decode.text import SafeText, printable
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.traced_machine import TracedMachine, at_entry
from pvhdbg.machine.lease import interruptible
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import Observed
from pvhdbg.machine.waiter import Missed, Waiter
from pvhdbg.record import NamedTuple
from pvhdbg.report.document import Passed
from pvhdbg.report.findings import VIOLATED
from pvhdbg.report.json_text import written
from pvhdbg.report.last_words import told_lines, words_of
from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
from pvhdbg.spec.documents import Clause, Document
from pvhdbg.spec.revisions import REVISIONS
from pvhdbg.targets.run import Progress

if TYPE_CHECKING:
    from pvhdbg.report.document import Report
    from pvhdbg.report.style import Style

REACHED = "UNTIL"  # the id of the check for --until
_SHOWN = 5  # lines of the serial port
_SERIAL = 1000


@dataclass(frozen=True)
class Waited:
    """The result of a wait: `end` is None when the goal was reached. `place` is where the machine was then."""

    goal: str
    seconds: float
    end: Missed | None
    place: str
    serial: tuple[SafeText, ...] = ()
    warnings: tuple[SafeText, ...] = ()
    took: float = 0.0  # seconds
    instructions: int | None = None  # from the entry to the goal, where they were counted

    @property
    def reached(self) -> bool:
        """Whether the goal was reached."""
        return self.end is None

    @property
    def died(self) -> bool:
        """Whether the guest died first."""
        return self.end is not None and self.end.died


def run_on(about: SubjectOptions, wait: WaitOptions, progress: Progress) -> tuple[Observed, Waited]:
    """As `subject.observe`; then the machine runs on to `--until`. Raises PvhdbgError."""
    limit = time_limit(wait.seconds)
    with at_entry(about, progress, patience=wait.seconds, watched=True) as machine:
        waited = _waited(str(wait.until), machine, limit)
    waited = replace(waited, warnings=(*machine.warnings, *waited.warnings))
    return Observed(machine.boot, waited.warnings, machine.file, waited.serial), waited


def _waited(until: str, machine: TracedMachine, limit: float) -> Waited:
    waiter = Waiter(machine.target, machine.boot, machine.image, machine.qemu, machine.progress, recorder=machine.recorder)
    goal = waiter.goal(until)
    began = time.monotonic()
    with interruptible(waiter.wait):
        end = waiter.until(goal, limit)
    took = time.monotonic() - began
    serial = tuple(machine.qemu.serial_tail(_SERIAL)) if machine.qemu is not None else ()
    place = end.place if end is not None else waiter.here()
    ran = waiter.wait.instructions if end is None else None
    return Waited(until, limit, end, place, serial, tuple(waiter.wait.warnings), took, ran)


def with_goal(report: Report, waited: Waited) -> Report:
    """The report with the wait as one more check."""
    missed = "" if waited.end is None else printable(waited.end.words)
    passed = Passed(printable(waited.goal), waited.took, missed, waited.instructions)
    return replace(report, verdicts=(*report.verdicts, verdict(waited)), milestones=(passed,))


def verdict(waited: Waited) -> Verdict:
    """The check for `--until`: passed when the goal was reached, failed when the guest died or the time was up."""
    goal = printable(waited.goal)
    document = Document("the command line", "docs/ci.md", "the user's own")
    rule = Rule(REACHED, f"the guest reaches {goal}", Clause(document, f"--until {goal}", ""), Severity.MUST, frozenset(REVISIONS),
                "A milestone of the boot that was asked for on the command line.")  # fmt: skip
    if waited.end is None:
        return Verdict(rule, Outcome.PASS, Severity.MUST)
    found = waited.end.words if waited.end.died else f"not within {waited.seconds:g} s: {waited.end.words}"
    return Verdict(rule, Outcome.FAIL, Severity.MUST, (Violation("the boot", f"{goal} is reached", printable(found)),))


class WaitCommandOptions(NamedTuple):
    """The options of `wait`."""

    about: SubjectOptions = SubjectOptions()
    wait: WaitOptions = WaitOptions()


@takes(WaitCommandOptions)
def wait(options: WaitCommandOptions, context: Context) -> Answer:
    """`wait`: the exit code says what came first: 0 the goal, 1 the guest's death, 3 the time limit or a bug of the VMM."""
    _, waited = run_on(options.about, options.wait, context.progress)
    code = 0 if waited.end is None else VIOLATED if waited.end.died else NOT_REACHED
    return Answer(lambda style: _text(waited, style), lambda: written(_document(waited)), code)


def _text(waited: Waited, style: Style) -> str:
    goal, end = printable(waited.goal), waited.end
    if end is None:
        number = "" if waited.instructions is None else f", before instruction {waited.instructions:,}"
        lines = [style("good", f"{goal} was reached: {printable(waited.place)}{number}")]
    else:
        how = (
            f"the guest died before it reached {goal}"
            if end.died
            else f"the guest did not reach {goal}"
            if end.death.vmm_bug is not None
            else f"the guest did not reach {goal} within {waited.seconds:g} s"
        )
        lines = [style("bad", line) for line in wrapped(printable(f"{how}: {end.words}"), max(min(style.width, 110), 40))]
        if end.told:
            lines += ["", style("head", "Its last words"), *(line for one in end.told for line in told_lines(one))]
        if waited.serial:
            lines += [
                "",
                style("head", "Last lines of the serial port"),
                *(f"  {one}" for one in waited.serial[-_SHOWN:]),
            ]
    lines += [style("warn", f"note: {one}") for one in waited.warnings]
    if end is not None and end.why.next:
        lines.append(f"{style('head', 'next:')} {printable(end.why.next)}")
    return "\n".join(lines) + "\n"


def _outcome(end: Missed) -> str:
    return "vmm bug" if end.death.vmm_bug is not None else "died" if end.died else "time"


def _document(waited: Waited) -> dict[str, object]:
    end = waited.end
    death = None if end is None else end.death
    return {
        "schema": "pvhdbg/wait/1",
        "goal": waited.goal,
        "outcome": "reached" if end is None else _outcome(end),
        "seconds": waited.seconds,
        "place": waited.place,
        "kind": None if death is None else death.kind.value,
        "cause": None if end is None else end.why.cause,
        "verdict": None if end is None else end.why.verdict,
        "faults": [] if end is None else list(end.why.chain),
        "pc": None if death is None or death.pc is None else hex(death.pc),
        "mode": None if death is None or death.mode is None else death.mode.value,
        "words": [] if end is None else words_of(end.told),
        "serial": list(waited.serial[-_SHOWN:]),
        "next": "" if end is None else end.why.next,
        "warnings": list(waited.warnings),
    }
