"""Files of expectations: read before a machine is started, judged afterwards, or written from a recording."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.output import open_output
from pvhdbg.commands.toml_file import toml_document
from pvhdbg.decode.text import printable
from pvhdbg.driver.bounded_search import PATIENCE, SIMPLER, TooSlow, bounded
from pvhdbg.errors import BadInput
from pvhdbg.expect.expectations import Expectations, read
from pvhdbg.expect.judging import judged as judge_by
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import Observed, observe, open_subject
from pvhdbg.machine.subject_kind import is_kernel_file, is_recording
from pvhdbg.record import NamedTuple
from pvhdbg.report.document import Passed, Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.targets.run import Progress

if TYPE_CHECKING:
    from pvhdbg.expect.judging import MilestoneResult

_EXAMPLE = "write a first one with: pvhdbg expect --from SNAPSHOT -o boot.toml"


def load(path: str) -> Expectations:
    """The expectations in a file. Raises BadInput, with line and column where it is not TOML."""
    document = toml_document(path, "a file of expectations", _EXAMPLE)
    return read(document, os.path.basename(path))


def with_machine(about: SubjectOptions, expectations: Expectations, path: str) -> SubjectOptions:
    """The options with the file's [machine] where the subject is a kernel and the command line does not say otherwise.

    `path` is the file's: its initrd lies beside it.
    """
    if not is_kernel_file(about.subject):
        return about
    wanted = dict(expectations.machine)
    if "initrd" in wanted:
        wanted["initrd"] = os.path.join(os.path.dirname(path), wanted["initrd"])
    said = {name for name, value in about.launch._asdict().items() if value not in (None, ())}
    return about._replace(launch=about.launch._replace(**{name: value for name, value in wanted.items() if name not in said}))


def run_through(
    about: SubjectOptions, expectations: Expectations, progress: Progress
) -> tuple[Observed, tuple[MilestoneResult, ...]]:
    """As `subject.observe`; then the machine runs from one milestone to the next, up to the first that it misses.

    Raises PvhdbgError; BadInput for a symbol that the kernel does not have.
    """
    from pvhdbg.commands.milestone_run import reached
    from pvhdbg.driver.traced_machine import at_entry

    exact = any(one.instructions is not None for one in expectations.milestones)
    with at_entry(about, progress, watched=True, exact=exact) as machine:
        found, serial = reached(machine, expectations)
    return Observed(machine.boot, tuple(machine.warnings), machine.file, serial), found


def judged(report: Report, expectations: Expectations, reached: tuple[MilestoneResult, ...] | None = None) -> Report:
    """The report with the file's verdicts added, and what the file allows excused; `reached` is None where nothing was run."""
    try:
        with bounded(PATIENCE * (len(expectations.expected) + 1)):
            verdicts, notes = judge_by(expectations, report.boot, report.verdicts, reached)
    except TooSlow:
        raise BadInput(
            f"an expression behind `matches` in {printable(expectations.name)} takes too long on the guest's data",
            SIMPLER,
        ) from None
    passed = tuple(Passed(printable(one.milestone.words), one.seconds, one.missed, one.instructions) for one in reached or ())
    return replace(report, verdicts=verdicts, warnings=(*report.warnings, *notes), milestones=passed)


class ExpectOptions(NamedTuple):
    """The options of `expect`; `source` is `--from`."""

    source: str
    output: str | None = None


@takes(ExpectOptions)
def expect(options: ExpectOptions, context: Context) -> Answer:
    """`expect`: a first file of expectations, from a recording."""
    from pvhdbg.expect.first_file import first_file

    source = options.source
    if not is_recording(source):
        raise BadInput(f"{source} is not a snapshot", "save one first: pvhdbg snapshot save KERNEL -o boot.pvhsnap")
    with open_output(options.output) as output:
        boot = observe(open_subject(SubjectOptions(source), context.progress)).boot
        if boot.other_protocol is not None:
            raise BadInput(f"{source} does not record a PVH hand-off: {boot.other_protocol.title}", "take one of a PVH boot")
        output.write(first_file(boot, judge(boot), os.path.basename(source)))
    if options.output in (None, "-"):  # the file is the answer
        return Answer(lambda _: "")
    return Answer(lambda _: f"{options.output}: check with: pvhdbg check KERNEL --expect {options.output}\n")
