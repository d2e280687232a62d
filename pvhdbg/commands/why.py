"""`pvhdbg why`: boot, wait for the guest's death, and explain it."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.options import NOT_REACHED, PromptOptions
from pvhdbg.disassembly import instruction_text
from pvhdbg.driver.death_watch import Diagnosis, diagnosed
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.traced_machine import at_entry, on_session
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.report import why_text
from pvhdbg.report.trace_text import escaped

_SHOWN = 5  # lines of the serial port


class WhyOptions(NamedTuple):
    """The options of `why`."""

    about: SubjectOptions = SubjectOptions()
    prompt: PromptOptions = PromptOptions()
    seconds: float | None = None


@takes(WhyOptions)
def why(options: WhyOptions, context: Context) -> Answer:
    """`why`: the answer holds the verdict and its evidence; exit code 3 when nothing died."""
    limit = time_limit(options.seconds)
    if context.session is not None:
        return _answer(on_session(context.session, "why", lambda machine: diagnosed(machine, limit), context.progress))
    with at_entry(options.about, context.progress, patience=options.seconds, watched=True) as machine:
        return _answer(diagnosed(machine, limit))


def _answer(found: Diagnosis) -> Answer:
    death, explanation, serial, warnings = found.death, found.explanation, found.serial[-_SHOWN:], list(found.warnings)
    told, calls, ran = found.told, found.calls, found.ran
    return Answer(
        lambda style: why_text.render(
            death, explanation, escaped(found.names), instruction_text, serial, warnings, style, told, calls, ran
        ),
        lambda: why_text.document(death, explanation, found.names, serial, warnings, told, calls, ran),
        0 if found.died else NOT_REACHED,
    )
