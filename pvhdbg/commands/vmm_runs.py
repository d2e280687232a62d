"""`probe --run` and `probe --list`: the probe under one VMM, under all that are here, and which are here."""

from __future__ import annotations

from pvhdbg.commands import judging
from pvhdbg.commands.declare import Answer, Context, shows
from pvhdbg.commands.handoff import answer
from pvhdbg.commands.probe_options import ProbeOptions
from pvhdbg.errors import BadInput, PvhdbgError, VmmFailed
from pvhdbg.guests import path
from pvhdbg.machine import probe_run
from pvhdbg.report import vmm_table
from pvhdbg.report.answers.tool import ListedVmm, ProbeListAnswer
from pvhdbg.report.document import Report
from pvhdbg.vmm.probing import xen
from pvhdbg.vmm.probing.catalogue import RUNNERS, runner
from pvhdbg.vmm.probing.seam import Found, ProbedVmm, Wish, mib

_ALL = "all"
_MOST_SECONDS = 3600.0

# --- one VMM ------------------------------------------------------------------------------------------------------


def judged(options: ProbeOptions, context: Context) -> Answer:
    """The report on the hand-off under one VMM, or the table of all that are here. Raises PvhdbgError."""
    if options.run == _ALL:
        return _all(options, context)
    return answer(_report(runner(options.run or ""), options, context), options.about)


def _report(one: ProbedVmm, options: ProbeOptions, context: Context) -> Report:
    """The report on one boot. Raises PvhdbgError."""
    seconds = one.seconds if options.seconds is None else options.seconds
    if not 0 < seconds <= _MOST_SECONDS:
        raise BadInput(f"--for {seconds:g} is not a time limit", "give a number of seconds greater than 0")
    if options.fetch and one is not xen.XEN:
        raise BadInput("--fetch downloads Xen, and no other VMM", "leave it out, or use --run xen")
    kernel = options.about.way.kernel or str(path("probe"))
    wish = Wish(kernel, options.binary, mib(options.probe_memory), options.initrds, options.probe_append)
    one.refuse(wish)
    found = _found(one, options, context)
    if found.missing:
        raise VmmFailed(f"{one.title} cannot be run here: {found.missing}", found.todo)
    observed = probe_run.observed(one, wish, found, options.about.revision, seconds, options.save, context.progress)
    return judging.report(observed, options.judge.rules(), options.judge.strict)


def _found(one: ProbedVmm, options: ProbeOptions, context: Context) -> Found:
    """Where the VMM is; with --fetch a missing Xen is downloaded. Raises VmmFailed."""
    found = one.find(options.binary)
    if not found.missing or not options.fetch or one is not xen.XEN:
        return found
    context.progress("downloading Xen")
    xen.fetch(xen.cache())
    return one.find(options.binary)


# --- all that are here --------------------------------------------------------------------------------------------


def _all(options: ProbeOptions, context: Context) -> Answer:
    for name, word in (("binary", "--binary"), ("save", "--save")):
        if options._asdict()[name]:
            raise BadInput(f"{word} is for one VMM", "name that VMM with --run")
    columns = []
    for one in RUNNERS:
        try:
            found = _found(one, options, context)
            if found.missing:
                columns.append(vmm_table.Column(one.name, one.title, missing=found.missing))
            else:
                columns.append(vmm_table.Column(one.name, one.title, _report(one, options._replace(fetch=False), context)))
        except BadInput:
            raise
        except PvhdbgError as error:
            columns.append(vmm_table.Column(one.name, one.title, failure=error))
    table = vmm_table.VmmTable(tuple(columns))
    return Answer(lambda style: vmm_table.render(table, style), lambda: vmm_table.render_json(table), table.exit_code)


def listed() -> Answer:
    """The VMMs that the probe can be booted under. Raises nothing."""
    rows = []
    for one in RUNNERS:
        found = one.find(None)
        words = (found.version or None, found.path or None, found.missing or None, found.todo or None)
        rows.append(ListedVmm(one.name, one.title, not found.missing, *words))
    document = ProbeListAnswer(tuple(rows))
    return shows(lambda _: vmm_table.render_list(document), document)
