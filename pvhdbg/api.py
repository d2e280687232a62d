"""The commands as Python functions: each takes a subject and the command's options by their long names.

A subject is a kernel file, a gdbstub's address, a snapshot, an ELF core, or a probe's log. An unknown option is a TypeError
that names the nearest one. PvhdbgError is raised where the command would exit with 2 or 3.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pvhdbg.arguments import (
    CheckArguments,
    DiffArguments,
    FollowArguments,
    Path,
    SubjectArguments,
    subject_of,
    values_of,
)
from pvhdbg.commands.declare import Context, options_of
from pvhdbg.commands.options import WaitOptions
from pvhdbg.driver.options import time_limit

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pvhdbg.commands.wait import Waited
    from pvhdbg.driver.death_watch import Diagnosis
    from pvhdbg.report.diff import Comparison
    from pvhdbg.report.document import Report
    from pvhdbg.tracing.event import Event, Fault


def check(subject: Path, **options: Unpack[CheckArguments]) -> Report:
    """Bring the subject to its entry and judge the hand-off; with `until` or `expect` also the run after it.

    `check("vmlinux", machine="q35", append="console=ttyS0", spec="v0", strict=True, select=["PVH"])`.
    """
    from pvhdbg.commands.handoff import CheckOptions, judged

    values = {**values_of("check", CheckArguments, options), "subject": str(subject)}
    return judged(options_of(CheckOptions, values), Context())


def wait(subject: Path, until: str, **options: Unpack[FollowArguments]) -> Waited:
    """Run the subject from its entry to a symbol, "0xADDRESS" or a mode, or to its death, which is explained.

    The result says which came first: `reached`, `died`, or neither within `seconds` (60).
    """
    from pvhdbg.commands.wait import run_on

    about = subject_of("wait", subject, FollowArguments, options)
    return run_on(about, WaitOptions(until, options.get("seconds")), lambda _: None)[1]


def why(subject: Path, **options: Unpack[FollowArguments]) -> Diagnosis:
    """Boot the subject, wait for the guest's death for at most `seconds` (60), and explain it."""
    from pvhdbg.driver.death_watch import diagnosed
    from pvhdbg.driver.traced_machine import at_entry

    about, limit = subject_of("why", subject, FollowArguments, options), time_limit(options.get("seconds"))
    with at_entry(about, watched=True) as machine:
        return diagnosed(machine, limit)


def trace(
    subject: Path,
    *,
    until: str | int | None = None,
    count: int | None = None,
    states: bool = False,
    seconds: float = 30.0,
    **options: Unpack[SubjectArguments],
) -> Generator[Event | Fault, None, None]:
    """The instructions from the entry on, one by one, and the faults between them. The machine is released when the iteration ends.

    `until` is a symbol, a linear address or a mode, `count` a number of instructions; `states` asks for what each instruction
    changed (`event.changes`). `close()` ends it early.
    """
    about = subject_of("trace", subject, SubjectArguments, options)

    def events() -> Generator[Event | Fault, None, None]:
        from pvhdbg.booted import at_entry

        with at_entry(about) as guest, guest.trace(until, count=count, states=states, timeout=seconds) as found:
            yield from found

    return events()


def diff(a: Path, b: Path, **options: Unpack[DiffArguments]) -> Comparison:
    """Bring two subjects to their entry, one after the other, and compare what they were handed."""
    from pvhdbg.commands.comparing import DiffOptions, compared

    values = {**values_of("diff", DiffArguments, options), "a": str(a), "b": str(b)}
    return compared(options_of(DiffOptions, values), Context())
