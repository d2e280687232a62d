"""From what was observed to a report: which rules are asked, and of what."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.commands.options import JudgeOptions
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.machine.capture import decoded
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import Observed, open_kernel
from pvhdbg.machine.subject_kind import is_kernel_file
from pvhdbg.model import EntryPoint, FoundBy, Kernel, Registers, Segments, Snapshot
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import RULES, judge
from pvhdbg.rules.declare import MachineRule, Outcome, Rule, Verdict
from pvhdbg.rules.files import judge_file
from pvhdbg.targets.recorded import RecordedTarget


def report(observed: Observed, rules: Iterable[Rule], strict: bool = False) -> Report:
    """The kernel file is judged first, as it comes first. Raises BadInput when nothing that was observed has such rules."""
    rules = tuple(rules)
    about_file = () if observed.file is None else judge_file(observed.file, rules, observed.boot.revision)
    verdicts = (*about_file, *judge(observed.boot, rules))
    if not verdicts:
        raise BadInput("the chosen rules judge a kernel file, and none was seen", "name it with --kernel")
    return Report(observed.boot, verdicts, strict, observed.warnings, observed.serial)


_MISSING = "the machine was not observed at an entry"


def not_observed(about: SubjectOptions, asked: JudgeOptions, error: PvhdbgError) -> Report:
    """The report on a machine that was refused, crashed or was never entered: its kernel file is judged, the rest is undecided."""
    try:
        rules: tuple[Rule, ...] = asked.rules()
    except BadInput:
        rules = RULES  # that is what the error says
    kernel, file = _kernel_of(about)
    snapshot = Snapshot(
        registers=Registers(missing=_MISSING),
        segments=Segments(missing=_MISSING),
        kernel=kernel,
        entry=EntryPoint(None, FoundBy.NOT_REACHED),
    )
    boot = decoded(RecordedTarget(snapshot, "nothing"), snapshot, about.revision)
    about_file = () if file is None else judge_file(file, rules, boot.revision)
    machine_rules = (one for one in rules if isinstance(one, MachineRule) and boot.revision.name in one.revisions)
    about_machine = (Verdict(one, Outcome.UNKNOWN, one.severity, reason=_MISSING) for one in machine_rules)
    return Report(boot, (*about_file, *about_machine), asked.strict, failure=error)


def _kernel_of(about: SubjectOptions) -> tuple[Kernel, KernelFile] | tuple[None, None]:
    path = about.way.kernel or (about.subject if is_kernel_file(about.subject) else None)
    if path is None:
        return None, None
    try:
        with open_kernel(path) as image:
            return image.kernel(), image.file().without_data()
    except PvhdbgError:
        return None, None
