"""The user's options for a trace: where it begins and ends, what it shows, and how the machine is observed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pvhdbg.errors import BadInput

What = Literal["milestones", "pc", "state", "calls"]
EngineName = Literal["auto", "log", "step", "breakpoints", "first"]
OnReset = Literal["stop", "go"]
MOST_CPUS = 4096
_SECONDS = 60.0


class TraceOptions(NamedTuple):
    """The options of `pvhdbg trace`, by its long names; `start` is `--from`. `output` is a file to write, `seconds` is `--for`."""

    until: str | None = None
    start: str | None = None
    filter: str | None = None
    what: What = "milestones"
    milestone: tuple[str, ...] = ()
    engine: EngineName = "auto"
    output: str | None = None
    tail: int | None = None
    on_reset: OnReset = "stop"
    vcpu: int | None = None
    seconds: float | None = None

    @property
    def limit(self) -> float:
        """How long to follow the guest, in seconds. Raises BadInput."""
        return time_limit(self.seconds)


def time_limit(seconds: float | None) -> float:
    """`--for` in seconds, 60 by default. Raises BadInput."""
    wanted = _SECONDS if seconds is None else seconds
    if not 0 < wanted < 1e6:
        raise BadInput(f"--for {wanted:g} is not a duration", "give a number of seconds greater than 0")
    return wanted
