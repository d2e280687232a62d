"""`pvhdbg why`: boot, wait for the guest's death, and explain it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.options import NOT_REACHED, PromptOptions
from pvhdbg.driver.options import MOST_CPUS, time_limit
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import subject_kind

if TYPE_CHECKING:
    from pvhdbg.driver.death_watch import Diagnosis
    from pvhdbg.driver.parting import AcceleratorParting
    from pvhdbg.driver.traced_machine import TracedMachine
    from pvhdbg.report.style import Style

_SHOWN = 5  # lines of the serial port


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
    from pvhdbg.driver.traced_machine import at_entry, on_session

    limit = time_limit(options.seconds)
    if options.vcpu is not None and not 0 <= options.vcpu < MOST_CPUS:
        raise BadInput(f"--vcpu {options.vcpu} is not a CPU's number", "0 is the first")
    if options.compare_tcg and options.about.launch.accel not in ("kvm", "auto"):
        raise BadInput("--compare-tcg compares with a boot under KVM", "add --accel kvm")
    if context.session is not None and not context.session.target.capabilities.control:
        from pvhdbg.driver import post_mortem

        return _answer(post_mortem.diagnosed(context.session, options.vcpu))
    if context.session is not None:
        return _answer(
            on_session(context.session, "why", lambda machine: _diagnosed(machine, limit, options.vcpu), context.progress)
        )
    if not subject_kind(options.about.subject).runs:
        from pvhdbg.driver import post_mortem

        with post_mortem.recording(options.about, context.progress) as session:
            return _answer(post_mortem.diagnosed(session, options.vcpu))
    with at_entry(
        options.about, context.progress, patience=options.seconds, watched=True, debugcon=True, meanwhile=_prepare
    ) as machine:
        found = _diagnosed(machine, limit, options.vcpu)
    if not options.compare_tcg:
        return _answer(found)
    from pvhdbg.driver.parting import parting

    about = options.about._replace(launch=options.about.launch._replace(accel="tcg"))
    with at_entry(about, context.progress, patience=options.seconds, watched=True, debugcon=True) as machine:
        again = _diagnosed(machine, limit, options.vcpu)
    part = None if again.died and not found.died else parting(options.about, about, limit, context.progress)
    return _compared(_answer(found), _answer(again), part)


def _prepare() -> None:
    """Import what explains a death while QEMU starts, where it costs no time."""
    from pvhdbg import disassembly
    from pvhdbg.driver import death_watch
    from pvhdbg.report import why_text

    del disassembly, death_watch, why_text


def _compared(under_kvm: Answer, under_tcg: Answer, part: AcceleratorParting | None) -> Answer:
    """The answer of a boot under KVM, and that of the same boot under TCG behind it, and where the two part."""

    from pvhdbg.report.json_text import written
    from pvhdbg.report.style import PLAIN

    def text(style: Style) -> str:
        parts = "" if part is None else f"\n{style('head', 'Where they part')}\n{part.words}\n"
        return f"{under_kvm.text(style)}\n{style('head', 'The same boot under TCG')}\n{under_tcg.text(style)}{parts}"

    def document() -> str:
        first, second = (json.loads(one.render("json", PLAIN)) for one in (under_kvm, under_tcg))
        return written({**first, "under_tcg": second, "parting": None if part is None else part.words})

    return Answer(text, document, under_kvm.exit_code)


def _diagnosed(machine: TracedMachine, limit: float, vcpu: int | None) -> Diagnosis:
    """By QEMU's logs where there is a monitor, which switches them on; else by steps, where no other CPU can be looked at."""
    if machine.target.capabilities.monitor:
        from pvhdbg.driver.death_watch import diagnosed

        return diagnosed(machine, limit, vcpu)
    if vcpu is not None:
        raise BadInput("--vcpu needs QEMU's monitor, which this stub does not have", "leave it out")
    from pvhdbg.driver import stepped_death

    return stepped_death.diagnosed(machine, limit)


def _answer(found: Diagnosis) -> Answer:
    from pvhdbg.disassembly import instruction_text
    from pvhdbg.report import why_text
    from pvhdbg.report.trace_text import escaped

    death, explanation, serial, warnings = found.death, found.explanation, found.serial[-_SHOWN:], list(found.warnings)
    told, calls, ran = found.told, found.calls, found.ran
    return Answer(
        lambda style: why_text.render(
            death, explanation, escaped(found.names), instruction_text, serial, warnings, style, told, calls, ran
        ),
        lambda: why_text.document(death, explanation, found.names, serial, warnings, told, calls, ran),
        0 if found.died else NOT_REACHED,
    )
