"""Files of expectations: TOML, its fields, conditions and patterns, judged on a machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from zlib import crc32

from fuzz.target import Output, Target
from fuzz.targets.handoff import shown
from pvhdbg.commands.expecting import judged
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput
from pvhdbg.expect.expectations import read
from pvhdbg.expect.fields import every_path
from pvhdbg.expect.first_file import first_file
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.examples import at_entry
from pvhdbg.spec.revisions import REVISIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BOOT = at_entry().boot(REVISIONS["v1"])
_VERDICTS = judge(_BOOT)


def _run(data: bytes) -> Iterator[Output]:
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # as commands.expecting.load
        raise BadInput(safe(str(error))) from error
    report = judged(Report(_BOOT, _VERDICTS), read(document, "boot.toml"))
    yield from shown(report, crc32(data))


def _seeds() -> Iterator[bytes]:
    yield first_file(_BOOT, _VERDICTS, "a.pvhsnap").encode()
    yield b'[machine]\nmemory = "512M"\n[[expect]]\nfield = "cmdline"\nmatches = "(a+)+$"\nwhy = "x"\n[[allow]]\nrule = "PVH-CR0"\nreason = "known"\n'
    yield b'[[expect]]\nfield = "registers.eax"\nequals = 0\n[[expect]]\nfield = "modules.count"\nat_least = 1\n[[milestone]]\nuntil = "start_kernel"\nwithin = 5\n'


TARGET = Target(
    _run,
    _seeds,
    (
        *(path.encode() for path in every_path()[:40]),
        b"[[expect]]\n",
        b"field = ",
        b"matches = ",
        b"equals = ",
        b'"\\u001b"',
        b"inf",
        b"1979-05-27",
        b"[" * 500,
    ),
)
