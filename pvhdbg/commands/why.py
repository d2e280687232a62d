"""`pvhdbg why`: boot, wait for the guest's death, and explain it."""

from __future__ import annotations

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.options import PromptOptions
from pvhdbg.driver.options import MOST_CPUS, time_limit
from pvhdbg.driver.traced_machine import at_entry
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import subject_kind
from pvhdbg.record import NamedTuple


class WhyOptions(NamedTuple):
    """The options of `why`."""

    about: SubjectOptions = SubjectOptions()
    prompt: PromptOptions = PromptOptions()
    seconds: float | None = None
    compare_tcg: bool = False
    vcpu: int | None = None


@takes(WhyOptions)
def why(options: WhyOptions, context: Context) -> Answer:
    """`why`: the answer holds the verdict and its evidence; exit code 3 when nothing died."""
    about, limit, vcpu = options.about, time_limit(options.seconds), options.vcpu
    if vcpu is not None and not 0 <= vcpu < MOST_CPUS:
        raise BadInput(f"--vcpu {vcpu} is not a CPU's number", "0 is the first")
    if options.compare_tcg and about.launch.accel not in ("kvm", "auto"):
        raise BadInput("--compare-tcg compares with a boot under KVM", "add --accel kvm")
    if context.session is None and subject_kind(about.subject).runs:
        return _booted(options, limit, context)
    from pvhdbg.commands import explained

    if context.session is not None:
        return explained.of_session(context.session, limit, vcpu, context.progress)
    return explained.of_recording(about, vcpu, context.progress)


def _booted(options: WhyOptions, limit: float, context: Context) -> Answer:
    about, patience, vcpu = options.about, options.seconds, options.vcpu
    with at_entry(about, context.progress, patience=patience, watched=True, debugcon=True, meanwhile=_prepare) as machine:
        from pvhdbg.commands import explained

        found = explained.diagnosed(machine, limit, vcpu)
    if not options.compare_tcg:
        return explained.answer(found)
    under_tcg = about._replace(launch=about.launch._replace(accel="tcg"))
    with at_entry(under_tcg, context.progress, patience=patience, watched=True, debugcon=True) as machine:
        again = explained.diagnosed(machine, limit, vcpu)
    part = explained.where_they_part(found, again, about, under_tcg, limit, context.progress)
    return explained.compared(found, again, part)


def _prepare() -> None:
    """Import what explains a death while the guest runs to its entry, where it costs no time."""
    from pvhdbg.commands import explained

    del explained
