"""The answer of `why`: a death that was watched, one that a recording shows, and two boots side by side.

`why` imports this while QEMU starts, where it costs no time.
"""

from __future__ import annotations

import json

from pvhdbg.commands.declare import Answer
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.disassembly import instruction_text
from pvhdbg.driver import death_watch, post_mortem, stepped_death
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.driver.parting import AcceleratorParting, parting
from pvhdbg.driver.session_machine import on_session
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.report import why_text
from pvhdbg.report.json_text import written
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.report.trace_text import escaped
from pvhdbg.targets.run import Progress

_SHOWN = 5  # lines of the serial port


def of_session(session: Session, limit: float, vcpu: int | None, progress: Progress) -> Answer:
    """The death of a session's machine: it runs on, or its recording is examined."""
    if not session.target.capabilities.control:
        return answer(post_mortem.diagnosed(session, vcpu))
    hand_off = session.hand_off()

    def work(machine: TracedMachine) -> Diagnosis:
        machine.warnings[:0] = session.warnings  # what was changed in the machine belongs to the diagnosis
        if machine.recorder is not None:
            machine.boot = hand_off  # it has seen everything since then
        return diagnosed(machine, limit, vcpu)

    return answer(on_session(session, "why", work, progress))


def of_recording(about: SubjectOptions, vcpu: int | None, progress: Progress) -> Answer:
    """The death that a core or a snapshot shows."""
    with post_mortem.recording(about, progress) as session:
        return answer(post_mortem.diagnosed(session, vcpu))


def diagnosed(machine: TracedMachine, limit: float, vcpu: int | None) -> Diagnosis:
    """By QEMU's logs where there is a monitor, which switches them on; else by steps, where no other CPU can be looked at."""
    if machine.target.capabilities.monitor:
        return death_watch.diagnosed(machine, limit, vcpu)
    if vcpu is not None:
        raise BadInput("--vcpu needs QEMU's monitor, which this stub does not have", "leave it out")
    return stepped_death.diagnosed(machine, limit)


def answer(found: Diagnosis) -> Answer:
    """The answer; its exit code is 3 where nothing died."""
    death, explanation, serial, warnings = found.death, found.explanation, found.serial[-_SHOWN:], list(found.warnings)
    told, calls, ran = found.told, found.calls, found.ran
    return Answer(
        lambda style: why_text.render(
            death, explanation, escaped(found.names), instruction_text, serial, warnings, style, told, calls, ran
        ),
        lambda: why_text.document(death, explanation, found.names, serial, warnings, told, calls, ran),
        0 if found.died else NOT_REACHED,
    )


def where_they_part(
    found: Diagnosis, again: Diagnosis, one: SubjectOptions, other: SubjectOptions, limit: float, progress: Progress
) -> AcceleratorParting | None:
    """Where a boot under TCG leaves the way of the same boot under KVM; None where only that under TCG ended by a death."""
    return None if again.died and not found.died else parting(one, other, limit, progress)


def compared(under_kvm: Diagnosis, under_tcg: Diagnosis, part: AcceleratorParting | None) -> Answer:
    """The answer of a boot under KVM, and that of the same boot under TCG behind it, and where the two part."""
    first, second = answer(under_kvm), answer(under_tcg)

    def text(style: Style) -> str:
        parts = "" if part is None else f"\n{style('head', 'Where they part')}\n{part.words}\n"
        return f"{first.text(style)}\n{style('head', 'The same boot under TCG')}\n{second.text(style)}{parts}"

    def document() -> str:
        one, other = (json.loads(found.render("json", PLAIN)) for found in (first, second))
        return written({**one, "under_tcg": other, "parting": None if part is None else part.words})

    return Answer(text, document, first.exit_code)
