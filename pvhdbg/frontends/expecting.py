"""Files of expectations: read before a machine is started, judged after it, and written from a recording."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput
from pvhdbg.expect.expectations import Expectations, read
from pvhdbg.frontends.verbs import Answer, Request

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pvhdbg.report.document import Report

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
    from pvhdbg.frontends.subject import is_kernel_file

    if not is_kernel_file(str(request.subject)):
        return request
    wanted = dict(expectations.machine)
    if "initrd" in wanted:
        wanted["initrd"] = os.path.join(os.path.dirname(str(request.expect)), wanted["initrd"])
    given = {name: value for name, value in request.values.items() if value not in (None, ())}
    return replace(request, values={**request.values, **wanted, **given})


def judged(report: Report, expectations: Expectations) -> Report:
    """The report with the file's verdicts in it, and what the file allows excused."""
    from pvhdbg.expect.judging import judged as judge

    verdicts, notes = judge(expectations, report.boot, report.verdicts)
    return replace(report, verdicts=verdicts, warnings=(*report.warnings, *notes))


def expect(request: Request) -> Answer:
    """`expect`: a first file of expectations, from a recording."""
    from pvhdbg.expect.first_file import first_file
    from pvhdbg.frontends.output import open_output
    from pvhdbg.frontends.subject import is_recording, observe
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
