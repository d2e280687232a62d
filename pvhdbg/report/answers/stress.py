"""The answers of a stress campaign."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.report.answers.declare import answer


class TrialAnswer(NamedTuple):
    """One boot with some mutations. `fate` is "survives", "dies", "does not reach the goal in time" or "not tried"; `allowed` is the reason
    in the file of expectations."""

    ids: tuple[str, ...]
    fate: str
    cause: str
    next: str
    allowed: str | None


@answer("stress")
class StressAnswer(NamedTuple):
    """Which mutations a guest survives. `sets` are the smallest of the random sets that it does not survive."""

    goal: str
    mutations: tuple[TrialAnswer, ...]
    rounds: int
    seed: int
    sets: tuple[TrialAnswer, ...]
    conclusion: str


class MutationAnswer(NamedTuple):
    """One mutation. `clause` leaves it open, `done_by` are VMMs that do it."""

    id: str
    title: str
    aspect: str
    clause: str
    done_by: str


@answer("mutations")
class MutationsAnswer(NamedTuple):
    """The mutations that `pvhdbg stress` can make."""

    mutations: tuple[MutationAnswer, ...]
