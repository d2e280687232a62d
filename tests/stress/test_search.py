"""Random sets, and the smallest part of one that still kills."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.text import safe
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.stress.campaign import Campaign, random_sets, smallest
from pvhdbg.stress.catalogue import MUTATIONS
from pvhdbg.stress.mutation import Mutation
from pvhdbg.stress.trial import Fate, StressWish, Trial


@given(st.sets(st.integers(0, len(MUTATIONS) - 1), min_size=1, max_size=8).flatmap(
    lambda all: st.tuples(st.just(sorted(all)), st.sets(st.sampled_from(sorted(all)), min_size=1))))  # fmt: skip
def test_the_smallest_set_is_what_kills(drawn: tuple[list[int], set[int]]) -> None:
    every, deadly = [MUTATIONS[index] for index in drawn[0]], {MUTATIONS[index] for index in drawn[1]}
    boots = 0

    def kills(some: Sequence[Mutation]) -> bool:
        nonlocal boots
        boots += 1
        return deadly <= set(some)

    assert set(smallest(every, kills)) == deadly
    assert boots <= len(every) ** 2 + 3 * len(every)  # Zeller's bound


@given(st.integers(0, 1 << 32), st.integers(0, 30))
def test_random_sets_are_repeatable_and_hold_one_of_each_aspect(seed: int, rounds: int) -> None:
    sets = list(random_sets(MUTATIONS, rounds, seed))
    assert sets == list(random_sets(MUTATIONS, rounds, seed))
    assert len(sets) == rounds
    for one in sets:
        assert 2 <= len(one) == len({mutation.aspect for mutation in one})


@pytest.mark.parametrize(
    ("boots", "fate"),
    [
        ([Fate.SURVIVES], Fate.SURVIVES),
        ([Fate.DIES, Fate.DIES], Fate.DIES),
        ([Fate.HANGS, Fate.SURVIVES, Fate.HANGS], Fate.HANGS),
        ([Fate.DIES, Fate.SURVIVES, Fate.SURVIVES], Fate.SURVIVES),
        ([Fate.DIES, Fate.NOT_TRIED, Fate.NOT_TRIED], Fate.DIES),
        ([Fate.NOT_TRIED], Fate.NOT_TRIED),
    ],
)
def test_a_death_counts_when_it_is_not_the_only_one(boots: list[Fate], fate: Fate) -> None:
    left = iter([Fate.SURVIVES, *boots])  # the control first
    wish = StressWish(SubjectOptions())
    result = Campaign(wish, 1, boot=lambda some: Trial(tuple(one.id for one in some), next(left), safe("why"))).run(
        MUTATIONS[:1], "x"
    )
    assert [one.fate for one in result.trials] == [fate]
    assert list(left) == []
    if len(boots) == 3 and fate is Fate.SURVIVES:
        assert result.trials[0].cause == "in 2 of 3 boots; once it did not (dies: why)"


def test_one_aspect_alone_makes_no_set() -> None:
    assert list(random_sets(MUTATIONS[:1], 3, 1)) == []
