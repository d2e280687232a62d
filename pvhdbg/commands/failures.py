"""What each format shows of a command that failed, so that no report of an earlier run is taken for this one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pvhdbg.commands.declare import Command, options_of
from pvhdbg.commands.formats import JUDGED, LISTS, rendered
from pvhdbg.commands.handoff import CheckOptions, answer
from pvhdbg.commands.options import JudgeOptions
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.machine.capture import decoded
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import open_kernel
from pvhdbg.machine.subject_kind import is_kernel_file
from pvhdbg.model import EntryPoint, FoundBy, Kernel, Registers, Segments, Snapshot
from pvhdbg.report import listing
from pvhdbg.report.document import Report
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.catalogue import RULES
from pvhdbg.rules.declare import MachineRule, Outcome, Rule, Verdict
from pvhdbg.rules.files import judge_file
from pvhdbg.targets.recorded import RecordedTarget


def of_error(command: Command, values: Mapping[str, Any], error: PvhdbgError) -> Callable[[str], str | None]:
    """A function of a format that tells in it what could not be judged; None for a format that has nothing to show."""
    subject = str(values.get("subject") or values.get("file") or "")

    def told(format: str) -> str | None:
        if format == "summary":
            return rendered("pvhdbg.report.markdown:render_error", error)
        if format in LISTS:
            return rendered(LISTS[format], listing.of_error(subject, error))
        if command.formats != JUDGED:
            return None
        # The file's verdicts, and why nothing was seen of the machine.
        options = options_of(CheckOptions, values)
        return answer(not_observed(options.about, options.judge, error), options.about).render(format, PLAIN)

    return told


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
