"""`probe`: judge a log of the sample guest, or boot it under a VMM (`--run`), or under all that are here; or say which are (`--list`)."""

from __future__ import annotations

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.handoff import brought
from pvhdbg.commands.probe_options import ProbeOptions
from pvhdbg.errors import BadInput
from pvhdbg.machine.subject import read_log

_FOR_A_RUN = (
    ("binary", "--binary"),
    ("probe_memory", "--memory"),
    ("initrds", "--initrd"),
    ("probe_append", "--append"),
    ("seconds", "--for"),
    ("save", "--save"),
    ("fetch", "--fetch"),
)


@takes(ProbeOptions)
def probe(options: ProbeOptions, context: Context) -> Answer:
    """`probe`: as `check`, for a log of the guest `probe`, from a file or from a VMM that is started."""
    if (bool(options.about.subject), options.run is not None, options.list).count(True) != 1:
        raise BadInput("exactly one of LOG, --run VMM and --list is needed", "see: pvhdbg help probe")
    if options.run is None:
        for name, word in _FOR_A_RUN:
            if options._asdict()[name]:
                raise BadInput(f"{word} is for a VMM that is started", "add --run VMM, or leave it out")
    if options.about.subject:
        return brought(options.about, options.judge, read_log(options.about, context.progress))
    from pvhdbg.commands import vmm_runs

    if options.list:
        return vmm_runs.listed()
    if options.about.vmm is not None:
        raise BadInput("--vmm is for a log, which does not name its VMM", "leave it out: --run names it")
    options.judge.refuse_unknown()
    return vmm_runs.judged(options, context)
