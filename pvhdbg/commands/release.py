"""`pvhdbg release`: a machine put back that a killed debugger left stopped, slow, or with breakpoints."""

from __future__ import annotations

from pvhdbg.commands.declare import Answer, Request
from pvhdbg.targets.address import parse_address
from pvhdbg.targets.target import Leave


def release(request: Request) -> Answer:
    """`release`. Raises BadInput, TargetError."""
    from pvhdbg.machine.mending import release as released

    address, leave = parse_address(str(request.subject)), Leave(request.leave or "running")
    found = released(address, leave, float(request.timeout or 10.0))
    found.append("the machine runs on" if leave is Leave.RUNNING else "the machine was left stopped")
    return Answer(lambda _: "".join(f"{line}\n" for line in found))
