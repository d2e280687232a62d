"""The guest's own lines that say why it died, each with what usually causes it, as text and for JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.decode.text import printable
from pvhdbg.tracing.last_words import Told


def told_lines(one: Told) -> list[str]:
    """A line of the guest's, and what usually causes it."""
    return [f"  {printable(one.line)}", *([f"    usually: {printable(one.meaning)}"] if one.meaning else [])]


def words_of(told: Sequence[Told]) -> list[dict[str, str]]:
    """The lines for JSON."""
    return [{"line": one.line, "usually": one.meaning} for one in told]
