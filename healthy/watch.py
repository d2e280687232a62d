"""Watch one healthy guest, and say what `why` made of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pvhdbg
from healthy.guests import Guest
from pvhdbg.errors import PvhdbgError
from pvhdbg.tracing.death import DeathKind

_ENDS = ("exited", "power-off", "shutdown")  # causes of an end that a healthy guest asks for


class Watched(NamedTuple):
    """What `why` said: kind and cause of the end, and `wrong`, "" where the guest was not accused."""

    guest: str
    kind: str
    cause: str
    wrong: str


def watch(guest: Guest, seconds: float, **options: Any) -> Watched:
    """Boot the guest and watch it; a guest that lives is watched for `seconds`, one that ends for a minute at most."""
    try:
        found = pvhdbg.why(guest.kernel, seconds=120.0 if guest.ends else seconds, **{**guest.options, **options})
    except PvhdbgError as error:
        return Watched(guest.name, "error", error.what, f"{error.what} ({error.todo})")
    death, why = found.death, found.explanation
    sound = (
        death.kind is DeathKind.ALIVE
        if not guest.ends
        else death.kind in (DeathKind.EXITED, DeathKind.SHUTDOWN) and why.cause in _ENDS
    )
    told = "; ".join(one.line for one in found.told)
    return Watched(guest.name, death.kind.value, why.cause, "" if sound and not told else f"{why.verdict} {told}".strip())
