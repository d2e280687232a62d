"""`boot`: record a whole boot by the flight recorder, and look at what was recorded."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.output import open_output
from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import names_of, recorded_machine
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.report import answers, boot_text
from pvhdbg.tracing.boot_file import BootInfo, encode
from pvhdbg.tracing.recorder.file import open_bytes, read_boot
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.story import functions, profile
from pvhdbg.vmm.options import RecorderOptions


class BootOptions(NamedTuple):
    """The options of `boot`."""

    about: SubjectOptions = SubjectOptions()
    until: str | None = None
    seconds: float | None = None
    exact: bool = False
    output: str | None = None


class BootShowOptions(NamedTuple):
    """The options of `boot show` and `boot profile`; `kernel` is the file with the names, if it is no longer where it was."""

    subject: str
    kernel: str | None = None
    grep: str | None = None
    most: int = 200


@takes(BootOptions)
def boot(options: BootOptions, context: Context) -> Answer:
    """`boot`: record the kernel's boot to a goal, to its end or to the time limit."""
    refuse_all_but_kernels(options.about.subject, "the recorder is loaded when QEMU is started: name a kernel")
    if not options.output:
        raise BadInput("boot has no file to write to", "name one: -o boot.pvhboot")
    limit = time_limit(options.seconds)

    def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
        goal = addresses_of(options.until, names) if options.until else ()
        return replace(plain, exact=options.exact, marks=tuple(goal))

    with ExitStack() as stack:
        output = stack.enter_context(open_output(options.output))
        machine = stack.enter_context(recorded_machine(options.about, told, context.progress))
        began = time.monotonic()
        end = machine.run(limit)
        info = BootInfo(
            os.path.abspath(options.about.subject),
            machine.image.with_hash().sha256 or "",
            f"QEMU {machine.qemu.version}",
            machine.qemu.command,
            options.about.launch.deterministic,
            time.monotonic() - began,
            end.words,
        )
        with open_bytes(os.fspath(machine.qemu.recording), "boot it again") as data:
            for piece in encode(info, data):
                output.write_bytes(piece)
        text, recording = boot_text.summary(info, machine.recording, machine.begun), machine.recording
        head = recording.header
        document = answers.BootAnswer(recorded_how(info), machine.begun, recording.exact, head.block_count, head.lost)
    return Answer(lambda _style: text, lambda: answers.render(document))


@takes(BootShowOptions)
def show(options: BootShowOptions, context: Context) -> Answer:
    """`boot show`: the functions of a saved boot in the order of their first execution."""
    wanted = _pattern(options.grep)
    with _saved(options.subject, options.kernel) as (info, recording, name):
        rows = [one for one in functions(recording.first_executions(), name) if wanted is None or wanted.search(one.name)]
    document = answers.BootFunctionsAnswer(recorded_how(info), tuple(rows[: options.most]), max(len(rows) - options.most, 0))
    return Answer(lambda style: boot_text.functions(info, rows, options.most, style), lambda: answers.render(document))


@takes(BootShowOptions)
def show_profile(options: BootShowOptions, context: Context) -> Answer:
    """`boot profile`: the instructions that each function executed."""
    wanted = _pattern(options.grep)
    with _saved(options.subject, options.kernel) as (info, recording, name):
        since = (block for block in recording.blocks() if block.first is not None and block.first >= 0)
        rows = [(function, spent) for function, spent in profile(since, name) if wanted is None or wanted.search(function)]
    shown = tuple(answers.FunctionCost(*one) for one in rows[: options.most])
    document = answers.BootProfileAnswer(recorded_how(info), shown, max(len(rows) - options.most, 0))
    return Answer(lambda style: boot_text.profile(info, rows, options.most, style), lambda: answers.render(document))


def recorded_how(info: BootInfo) -> answers.RecordedHow:
    """How a boot was recorded, for a JSON answer."""
    return answers.RecordedHow(info.kernel, info.vmm, info.deterministic, info.seconds, info.end)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return compiled(text)
    except BadPattern as error:
        raise BadInput(f"--grep {text} is not a regular expression: {error}", "see Python's re for how one is written") from None


@contextmanager
def _saved(path: str, kernel: str | None) -> Iterator[tuple[BootInfo, Recording, Callable[[int], str | None]]]:
    """A saved boot, and names by the kernel that was booted. Raises BadInput."""
    info, recording = read_boot(path)
    file = kernel or info.kernel
    with open_kernel(file) as image:
        if image.with_hash().sha256 != info.kernel_hash:
            raise BadInput(f"{file} is not the kernel that {path} was recorded of", "name that one: --kernel FILE")
        yield info, recording, names_of(image)
