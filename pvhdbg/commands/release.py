"""`pvhdbg release`: clean up a machine that a killed debugger left stopped, slow, or with breakpoints."""

from __future__ import annotations

from typing import Literal

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.machine.mending import release as released
from pvhdbg.record import NamedTuple
from pvhdbg.targets.address import parse_address
from pvhdbg.targets.target import Leave


class ReleaseOptions(NamedTuple):
    """The options of `release`; `timeout` in seconds."""

    subject: str
    leave: Literal["running", "stopped"] | None = None
    timeout: float = 10.0


@takes(ReleaseOptions)
def release(options: ReleaseOptions, context: Context) -> Answer:
    """`release`. Raises BadInput, TargetError."""
    leave = Leave(options.leave or "running")
    found = released(parse_address(options.subject), leave, options.timeout)
    found.append("the machine runs on" if leave is Leave.RUNNING else "the machine was left stopped")
    return Answer(lambda _: "".join(f"{line}\n" for line in found), value=tuple(found))
