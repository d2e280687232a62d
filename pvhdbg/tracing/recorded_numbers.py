"""How the flight recorder numbers instructions, and the error for bytes that are not its own."""

from __future__ import annotations

NEVER = (1 << 64) - 1
BEFORE = 1 << 63  # set in the number of an instruction that ran before the entry


class BadRecording(ValueError):
    """The bytes are not a recording, are truncated, or are of another version. The message is one sentence."""


def signed(number: int, base: int = NEVER) -> int:
    """A number before the entry, which `base` instructions precede, is negative."""
    if number < BEFORE:
        return number
    return -1 if base == NEVER else min((number & ~BEFORE) - base, -1)
