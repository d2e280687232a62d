"""The goal of a run: where the guest should arrive. Every command that runs on to a goal has this one."""

from __future__ import annotations

from collections.abc import Callable

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.record import dataclass


@dataclass(frozen=True)
class Goal:
    """One of some linear addresses, one of some modes, or `done`, which is called while the machine runs. By default no goal."""

    addresses: tuple[int, ...] = ()
    modes: frozenset[Mode] = frozenset()
    done: Callable[[], bool] = lambda: False
