"""Boot a planted death, and compare what `why` says with what it must say."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pvhdbg
from planted.deaths import Planted
from pvhdbg import guests
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.kernel.image import open_kernel

_SECONDS = 25.0
CRASHERS = str(guests.path("crashers"))


@cache
def address(symbol: str) -> int:
    """Where a symbol of `crashers` is."""
    with open_kernel(CRASHERS) as image:
        return image.symbols().virtual_address(symbol)


def of_crashers(one: Planted, **more: Any) -> Diagnosis:
    """What `why` says of a death in `crashers`."""
    return pvhdbg.why(CRASHERS, append=f"crash={one.name}", **{"seconds": _SECONDS, **one.options, **more})


def of_small(one: Planted, folder: Path, **more: Any) -> Diagnosis:
    """The same of a small kernel, which is written into the folder."""
    assert one.made is not None
    kernel = folder / "kernel"
    kernel.write_bytes(one.made(folder))
    return pvhdbg.why(str(kernel), **{"seconds": _SECONDS, **one.options, **more})


def of_linux(one: Planted, kernel: str, console: str = "console=ttyS0 ", **more: Any) -> Diagnosis:
    """The same of a Linux with planted deaths."""
    return pvhdbg.why(kernel, append=f"{console}planted={one.name}", **{"seconds": 60.0, **one.options, **more})


def wrong(one: Planted, found: Diagnosis) -> str:
    """What is wrong or missing in what `why` said; "" where all of it is right."""
    death, why = found.death, found.explanation
    place = found.names(death.pc) if death.pc is not None else None
    if place is not None and one.inside:
        place = place.partition("+")[0]
    callers = [(call.name or "").partition("+")[0] for call in found.calls[1:2]]
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        (f"it is a {death.kind.value}", lambda: one.kind in (None, death.kind)),
        (f"the cause is {why.cause}", lambda: why.cause == one.cause),
        (f"the place is {place}", lambda: one.place in (None, place)),
        (f"the CPU is {death.cpu}", lambda: one.cpu in (None, death.cpu)),
        (f"the caller is {callers}", lambda: not one.caller or callers == [one.caller]),
    )
    return "; ".join([*(text for text, right in checks if not right()), *unsaid(one, why.verdict, why.next)])


def unsaid(one: Planted, verdict: str, step: str) -> list[str]:
    """The words that a verdict or a next step lacks."""
    missing = [text for text in map(_named, (one.words, *one.also)) if text not in verdict]
    return [
        *([f"{missing} is not in: {verdict}"] if missing else []),
        *([f"{one.step!r} is not in the next step: {step}"] if one.step not in step else []),
    ]


def _named(text: str) -> str:
    """With addresses for the symbols in braces."""
    return re.sub(r"\{(\w+)\}", lambda name: f"{address(name[1]):#x} ({name[1]})", text)
