"""`boot`: record a whole boot by the flight recorder, and look at what was recorded."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.output import open_output
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import recorded_machine
from pvhdbg.errors import BadInput
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.record import NamedTuple
from pvhdbg.report import boot_text
from pvhdbg.report.answers.boots import BootAnswer, RecordedHow
from pvhdbg.tracing.boot_file import BootInfo, encode
from pvhdbg.tracing.chapters import SYMBOLS
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.recorder.file import open_bytes
from pvhdbg.vmm.options import RecorderOptions

_CHAPTERS = 8  # addresses of symbols that begin one


class BootOptions(NamedTuple):
    """The options of `boot`."""

    about: SubjectOptions = SubjectOptions()
    until: str | None = None
    seconds: float | None = None
    exact: bool = False
    flow: bool = False
    max_instructions: int | None = None
    output: str | None = None


@takes(BootOptions)
def boot(options: BootOptions, context: Context) -> Answer:
    """`boot`: record the kernel's boot to a goal, to its end or to the time limit."""
    refuse_all_but_kernels(options.about.subject, "the recorder is loaded when QEMU is started: name a kernel")
    if not options.output:
        raise BadInput("boot has no file to write to", "name one: -o boot.pvhboot")
    most = options.max_instructions
    if most is not None and most < 1:
        raise BadInput(f"--max-instructions {most} is not a number of instructions", "give 1 or more")
    limit = time_limit(options.seconds)

    def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
        goal = addresses_of(options.until, names) if options.until else ()
        chapters = tuple(names.found(SYMBOLS))[:_CHAPTERS]
        return replace(plain, exact=options.exact, flow=options.flow, halts=tuple(goal), chapters=chapters)

    with ExitStack() as stack:
        output = stack.enter_context(open_output(options.output))
        machine = stack.enter_context(recorded_machine(options.about, told, context.progress))
        began = time.monotonic()
        end = machine.run(limit, lambda: most is not None and machine.recording.begun() >= most)
        if end.why is EndReason.INTERRUPTED:
            end = TraceEnd(EndReason.COUNT)
        info = BootInfo(
            os.path.abspath(options.about.subject),
            machine.image.with_hash().sha256 or "",
            f"QEMU {machine.qemu.version}",
            machine.qemu.command,
            options.about.launch.deterministic,
            time.monotonic() - began,
            end.words,
            machine.image.kernel().build_id or "",
        )
        path = os.fspath(machine.qemu.recording)
        with ExitStack() as files:
            data = files.enter_context(open_bytes(path, "boot it again"))
            cpus = range(machine.recording.cpus if options.flow else 0)
            flows = [files.enter_context(open_bytes(f"{path}.flow{cpu}", "boot it again")) for cpu in cpus]
            for piece in encode(info, data, flows):
                output.write_bytes(piece)
        text, recording = boot_text.summary(info, machine.recording, machine.begun), machine.recording
        head = recording.header
        document = BootAnswer(recorded_how(info), machine.begun, recording.exact, head.block_count, head.lost)
    return shows(lambda _style: text, document)


def recorded_how(info: BootInfo) -> RecordedHow:
    """How a boot was recorded, for a JSON answer."""
    return RecordedHow(info.kernel, info.vmm, info.deterministic, info.seconds, info.end)
