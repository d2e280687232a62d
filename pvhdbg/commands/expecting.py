"""Files of expectations: read before a machine is started, judged after it, and written from a recording."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pvhdbg.commands.table import Answer, Request
from pvhdbg.decode.text import printable
from pvhdbg.driver.bounded_search import TooSlow, search
from pvhdbg.errors import BadInput
from pvhdbg.expect.expectations import Expectations, read

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pvhdbg.expect.judging import Reached
    from pvhdbg.machine.subject import Observed
    from pvhdbg.report.document import Report
    from pvhdbg.vmm.qemu import QemuProcess

_SERIAL = 1000  # lines of the serial port, in a report and for milestones
FILE_BOUND = 1 << 20  # bytes
_EXAMPLE = "write a first one with: pvhdbg expect --from SNAPSHOT -o boot.toml"


def load(path: str) -> Expectations:
    """The expectations in a file. Raises BadInput, with line and column where it is not TOML."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BOUND + 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", _EXAMPLE) from error
    if len(data) > FILE_BOUND:
        raise BadInput(f"{path} is larger than {FILE_BOUND >> 10} KiB: it is no file of expectations", _EXAMPLE)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadInput(f"{path} is not TOML: it is not UTF-8 (at line {line}, column {column})", _EXAMPLE) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, and says where
        raise BadInput(f"{path} is not TOML: {error}", "see https://toml.io for how it is written") from error
    return read(document, os.path.basename(path))


def request_for(request: Request, expectations: Expectations) -> Request:
    """The request with the file's [machine] where the subject is a kernel and the command line does not say otherwise."""
    from pvhdbg.machine.subject_kind import is_kernel_file

    if not is_kernel_file(str(request.subject)):
        return request
    wanted = dict(expectations.machine)
    if "initrd" in wanted:
        wanted["initrd"] = os.path.join(os.path.dirname(str(request.expect)), wanted["initrd"])
    given = {name: value for name, value in request.values.items() if value not in (None, ())}
    return replace(request, values={**request.values, **wanted, **given})


def observe(request: Request, expectations: Expectations) -> tuple[Observed, tuple[Reached, ...]]:
    """As `subject.observe`, with the machine run on to one milestone after the other, up to the first that it misses.

    Raises PvhdbgError; BadInput for a symbol that the kernel does not have.
    """
    from pvhdbg.driver.serial_milestones import need_own_serial
    from pvhdbg.driver.trace_subject import at_entry
    from pvhdbg.expect.judging import Reached
    from pvhdbg.machine.lease import interruptible
    from pvhdbg.machine.subject import Observed
    from pvhdbg.machine.waiter import Vigil
    from pvhdbg.tracing.engines.wait import Goal

    found: list[Reached] = []
    with at_entry(request) as machine:
        qemu = machine.qemu
        budget = max((one.instructions for one in expectations.milestones if one.instructions is not None), default=0)
        vigil = Vigil(machine.target, machine.boot, machine.image, qemu, request.progress, count=budget + 1 if budget else 0)
        if any(one.serial is not None for one in expectations.milestones):
            need_own_serial(qemu)
        goals = [
            Goal(done=partial(_written, qemu, one.serial)) if one.serial is not None else vigil.goal(str(one.reaches))
            for one in expectations.milestones
        ]
        began = time.monotonic()
        with interruptible(vigil.wait):
            for milestone, goal in zip(expectations.milestones, goals, strict=True):
                end = vigil.until(goal, milestone.timeout)
                late = "" if end is None or end.died else f"not within {milestone.timeout:g} s: "
                missed = "" if end is None else printable(late + end.words)
                ran = vigil.wait.instructions if end is None else None
                found.append(Reached(milestone, time.monotonic() - began, missed, ran, vigil.wait.counted))
                if end is not None:
                    break
        serial = tuple(qemu.serial_tail(_SERIAL)) if qemu is not None else ()
        warnings = (*machine.warnings, *vigil.wait.warnings)
    return Observed(machine.boot, warnings, machine.file, serial), tuple(found)


def _written(qemu: QemuProcess | None, wanted: re.Pattern[str]) -> bool:
    try:
        return qemu is not None and search(wanted, "\n".join(qemu.serial_tail(_SERIAL)))
    except TooSlow:
        raise BadInput(
            f"the expression {printable(wanted.pattern)} takes too long on what the guest writes",
            "repeat nothing that repeats itself",
        ) from None


def judged(report: Report, expectations: Expectations, reached: tuple[Reached, ...] | None = None) -> Report:
    """The report with the file's verdicts in it, and what the file allows excused; `reached` is None where nothing was run."""
    from pvhdbg.expect.judging import judged as judge
    from pvhdbg.report.document import Passed

    verdicts, notes = judge(expectations, report.boot, report.verdicts, reached)
    passed = tuple(Passed(printable(one.milestone.words), one.seconds, one.missed) for one in reached or ())
    return replace(report, verdicts=verdicts, warnings=(*report.warnings, *notes), milestones=passed)


def expect(request: Request) -> Answer:
    """`expect`: a first file of expectations, from a recording."""
    from pvhdbg.commands.output import open_output
    from pvhdbg.expect.first_file import first_file
    from pvhdbg.machine.subject import observe
    from pvhdbg.machine.subject_kind import is_recording
    from pvhdbg.rules.catalogue import judge

    source = str(request.source)
    if not is_recording(source):
        raise BadInput(f"{source} is no snapshot", "save one first: pvhdbg snapshot save KERNEL -o boot.pvhsnap")
    with open_output(request.output) as output:
        boot = observe(replace(request, values={**request.values, "subject": source})).boot
        if boot.other_protocol is not None:
            raise BadInput(f"{source} is not of a PVH hand-off: {boot.other_protocol.title}", "take one of a PVH boot")
        output.write(first_file(boot, judge(boot), os.path.basename(source)))
    if request.output in (None, "-"):  # it is the answer
        return Answer(lambda _: "")
    return Answer(lambda _: f"{request.output}: check with: pvhdbg check KERNEL --expect {request.output}\n")
