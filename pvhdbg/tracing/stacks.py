"""Folded stacks for flame graphs (flamegraph.pl, inferno, speedscope): a chain of calls and its number of instructions on a line.

The chain follows from the calls and returns in the trace. A function that is jumped to replaces the one that jumped, and so do the
targets of Linux' return thunks. A consumer splits a line at `;` and takes the text after the last blank for the number: no name
contains either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pvhdbg.tracing.event import Event, Reset
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.symbol_text import Name, function
from pvhdbg.tracing.trace_file import Record

_DEEPEST = 256  # calls in a chain; deeper ones are counted with their caller
# Chains, and characters of all of them; beyond these bounds instructions are counted with the caller's chain.
_CHAINS_BOUND = 1 << 18
_TEXT_BOUND = 1 << 28
_BLANK = re.compile(r"\s")
_ROOT = -1


class _Chains:
    """Each chain is its caller's chain and one more name, so a million chains share their beginnings."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], int] = {}
        self._chains: list[tuple[int, str, int]] = []  # caller's chain, name, characters of it all
        self._characters = 0
        self.counts: list[int] = []

    def of(self, caller: int, name: str) -> int:
        """The chain's number."""
        known = self._known.get((caller, name))
        if known is not None:
            return known
        length = len(name) + 1 + (0 if caller == _ROOT else self._chains[caller][2])
        if caller != _ROOT and (len(self._chains) >= _CHAINS_BOUND or self._characters + length > _TEXT_BOUND):
            return caller
        self._characters += length
        self._known[caller, name] = len(self._chains)
        self._chains.append((caller, name, length))
        self.counts.append(0)
        return len(self._chains) - 1

    def lines(self) -> Iterator[str]:
        """The chains in which instructions ran, each with the number of those."""
        for chain, count in enumerate(self.counts):
            if count:
                names = []
                at = chain
                while at != _ROOT:
                    at, name, _ = self._chains[at]
                    names.append(name)
                yield f"{';'.join(reversed(names))} {count}\n"


def folded(records: Iterable[Record], name: Name) -> Iterator[str]:
    """How many instructions each chain of calls took, in the order in which the chains first ran."""
    chains = _Chains()
    callers: list[int] = [_ROOT]  # of the function that runs, outermost first
    chain, before, following = _ROOT, Effect.OTHER, -1
    for record in records:
        if isinstance(record, Reset):
            callers, before = [_ROOT], Effect.OTHER  # no return crosses a reset
        if not isinstance(record, Event):
            continue
        here = _BLANK.sub("_", function(name(record.pc)).replace(";", ":"))
        if record.seq != following:
            before = Effect.OTHER  # the jump to this place was not seen
        if before is Effect.CALL and len(callers) < _DEEPEST:
            callers.append(chain)
        elif before is Effect.RETURN and len(callers) > 1:
            callers.pop()
        chain = chains.of(callers[-1], here)
        chains.counts[chain] += 1
        before, following = effect_of(record.code, record.mode.bits), record.seq + 1
    yield from chains.lines()
