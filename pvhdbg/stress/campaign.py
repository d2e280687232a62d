"""All boots of a stress run: the control, each mutation alone, then random sets, and a failing set cut down to the smallest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from pvhdbg.decode.text import SafeText
from pvhdbg.errors import EntryNotReached, PvhdbgError
from pvhdbg.stress.mutation import Mutation
from pvhdbg.stress.trial import Fate, StressWish, Trial, boot_with, failed
from pvhdbg.targets.run import Progress

_SET = 6  # mutations in a random set, at most
_LOOK = 0.2  # seconds

BootsWith = Callable[[Sequence[Mutation]], Trial]


@dataclass(frozen=True)
class StressResult:
    """What came of all boots. `sets` are the random sets that the guest did not survive, each cut down."""

    goal: str
    control: Trial
    trials: tuple[Trial, ...]
    rounds: int = 0
    seed: int = 0
    sets: tuple[Trial, ...] = ()

    @property
    def killers(self) -> tuple[Trial, ...]:
        """The boots that the guest did not survive."""
        return tuple(one for one in (*self.trials, *self.sets) if one.killed)


def smallest(failing: Sequence[Mutation], kills: Callable[[Sequence[Mutation]], bool]) -> tuple[Mutation, ...]:
    """A set of which no mutation can be left out, found by delta debugging (Zeller and Hildebrandt 2002): `kills` boots the guest."""
    left, parts = list(failing), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        for start in range(0, len(left), size):
            rest = left[:start] + left[start + size :]
            if rest and kills(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(left))
    return tuple(left)


def random_sets(mutations: Sequence[Mutation], rounds: int, seed: int) -> Iterator[tuple[Mutation, ...]]:
    """`rounds` sets of 2 to 6 mutations, at most one of each aspect; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    aspects = sorted({one.aspect for one in mutations}, key=lambda one: one.name)
    for _ in range(rounds):
        if len(aspects) < 2:
            return
        chosen = draw.sample(aspects, draw.randint(2, min(_SET, len(aspects))))
        drawn = {draw.choice([one for one in mutations if one.aspect is aspect]) for aspect in chosen}
        yield tuple(one for one in mutations if one in drawn)


MOST_BOOTS = 3  # that `confirmed` makes


def confirmed(boot: Callable[[], Trial]) -> Trial:
    """What came of a boot; a death counts when the next boot dies too, or two of three: a loaded machine kills a guest now and then."""
    first = boot()
    if not first.killed:
        return first
    survived = 0
    for _ in range(MOST_BOOTS - 1):
        again = boot()
        if again.killed:
            return first
        survived += again.fate is Fate.SURVIVES
    if not survived:
        return first
    words = f"in {survived} of {survived + 1} boots; once it did not ({first.fate.value}: {first.cause})"
    return Trial(first.ids, Fate.SURVIVES, SafeText(words))


class Campaign:
    """Boots in parallel. Ctrl-C ends the boots that run, and raises KeyboardInterrupt."""

    def __init__(self, wish: StressWish, jobs: int, progress: Progress = lambda _: None, boot: BootsWith | None = None) -> None:
        self._wish = wish
        self._jobs = jobs
        self._progress = progress
        self._cancelled = threading.Event()
        self._boot = boot or (lambda mutations: boot_with(mutations, wish, self._cancelled.is_set))

    def run(self, mutations: Sequence[Mutation], goal: str, rounds: int = 0, seed: int = 0) -> StressResult:
        """Raises PvhdbgError for a control that cannot be booted, EntryNotReached where it misses its goal: then nothing is judged."""
        self._progress("booting the guest unchanged")
        control = self._boot(())
        if control.fate is not Fate.SURVIVES:
            raise EntryNotReached(
                f"the unchanged guest did not reach {goal}: {control.cause}",
                f"nothing was changed yet; {control.next or 'give another goal with --until, or more time with --for'}",
            )
        alone = tuple(self._all([(one,) for one in mutations]))
        survived = {one.ids[0] for one in alone if one.fate is Fate.SURVIVES}
        harmless = [one for one in mutations if one.id in survived]
        sets = []
        for chosen, trial in zip(*self._tried(harmless, rounds, seed), strict=True):
            if trial.killed:
                found = smallest(chosen, lambda some: self._sure(some).killed)
                sets.append(self._sure(found) if len(found) < len(chosen) else trial)
        return StressResult(goal, control, alone, rounds, seed, tuple({one.ids: one for one in sets if one.killed}.values()))

    def _tried(self, mutations: Sequence[Mutation], rounds: int, seed: int) -> tuple[list[tuple[Mutation, ...]], list[Trial]]:
        chosen = list(random_sets(mutations, rounds, seed))
        return chosen, list(self._all(chosen))

    def _once(self, mutations: Sequence[Mutation]) -> Trial:
        try:
            return self._boot(mutations)
        except PvhdbgError as error:
            return failed(tuple(one.id for one in mutations), error)

    def _sure(self, mutations: Sequence[Mutation]) -> Trial:
        return confirmed(lambda: self._once(mutations))

    def _all(self, sets: Iterable[Sequence[Mutation]]) -> Iterator[Trial]:
        sets = list(sets)
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="pvhdbg-stress")
        try:
            running: list[Future[Trial]] = [pool.submit(self._sure, one) for one in sets]
            waiting = set(running)
            while waiting:
                done, waiting = wait(waiting, _LOOK, FIRST_COMPLETED)
                if done:
                    self._progress(f"booting the changed guest: {len(sets) - len(waiting)} of {len(sets)}")
            yield from (one.result() for one in running)
        finally:
            if not all(one.done() for one in running):
                self._cancelled.set()  # Ctrl-C: the machines that run are to end soon
            pool.shutdown(wait=True, cancel_futures=True)


def words(trial: Trial) -> SafeText:
    """What came of a boot, in one line."""
    return SafeText(f"{trial.fate.value}: {trial.cause}" if trial.cause else trial.fate.value)
