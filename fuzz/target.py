"""What a target is: a function that gives bytes to one reader, and yields everything that pvhdbg would show of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

BOUND = 1 << 16  # bytes of an input


class Form(Enum):
    """What an output must be."""

    TEXT = "text"
    JSON = "JSON"
    XML = "XML"
    LINES = "JSON lines"


class Output(NamedTuple):
    """Something that pvhdbg would show."""

    form: Form
    text: str


@dataclass(frozen=True)
class Target:
    """A reader. `run` raises what the reader raises; `seeds` are whole, correct inputs; `words` are put into mutated ones.

    `refusals` are the documented exceptions of this reader, in addition to PvhdbgError. `sockets`: it talks to a peer, and is bounded by the
    clock.
    """

    run: Callable[[bytes], Iterable[Output]]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    refusals: tuple[type[Exception], ...] = ()
    sockets: bool = False
