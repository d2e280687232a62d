"""The user's names of modes to wait for, at the prompt and on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pvhdbg.decode.cpu_mode import Mode

_SWITCHES: Mapping[str, frozenset[Mode]] = {
    "protected-mode": frozenset(Mode) - {Mode.REAL},  # CR0.PE
    "paging": frozenset({Mode.PAGED, Mode.PAE, Mode.COMPATIBILITY, Mode.LONG}),  # CR0.PG
    "long-mode": frozenset({Mode.LONG}),  # EFER.LMA and CS.L: 64-bit code
}
MODES: Mapping[str, frozenset[Mode]] = MappingProxyType({**_SWITCHES, **{mode.value: frozenset({mode}) for mode in Mode}})
FOREMOST = tuple(_SWITCHES)  # the words that help texts list


def first_in(modes: Sequence[Mode], wanted: frozenset[Mode]) -> int | None:
    """The index of the first of `modes` that is one of `wanted`."""
    return min((modes.index(one) for one in wanted if one in modes), default=None)
