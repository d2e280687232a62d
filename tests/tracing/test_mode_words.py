"""The words for modes, against the bits that they mean."""

import pytest

from pvhdbg.decode.cpu_mode import Mode, mode_of
from pvhdbg.tracing.mode_words import FOREMOST, MODES, first_in

PE, PG, PAE, LMA, CODE64, CODE32 = 1, 1 << 31, 1 << 5, 1 << 10, 1 << 21, 1 << 22
STATES = {
    Mode.REAL: (0, 0, 0, None),
    Mode.PROTECTED: (PE, 0, 0, CODE32),
    Mode.PAGED: (PE | PG, 0, 0, CODE32),
    Mode.PAE: (PE | PG, PAE, 0, CODE32),
    Mode.COMPATIBILITY: (PE | PG, PAE, LMA, CODE32),
    Mode.LONG: (PE | PG, PAE, LMA, CODE64),
}


@pytest.mark.parametrize("mode", STATES, ids=str)
def test_a_word_is_the_bit_that_it_means(mode: Mode) -> None:
    cr0, cr4, efer, flags = STATES[mode]
    assert mode_of(cr0, cr4, efer, flags) is mode
    assert (mode in MODES["protected-mode"]) == bool(cr0 & PE)
    assert (mode in MODES["paging"]) == bool(cr0 & PG)
    assert (mode in MODES["long-mode"]) == bool(efer & LMA and (flags or 0) & CODE64)
    assert MODES[mode.value] == {mode}


def test_the_first_of_several() -> None:
    seen = [Mode.REAL, Mode.PROTECTED, Mode.PROTECTED, Mode.COMPATIBILITY, Mode.LONG]
    assert [first_in(seen, MODES[word]) for word in FOREMOST] == [1, 3, 4]
    assert first_in(seen, MODES["vm86"]) is None
    assert first_in([], MODES["long"]) is None
    assert first_in(seen, frozenset()) is None
