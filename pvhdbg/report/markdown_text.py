"""Foreign text inside Markdown (CommonMark, and GitHub's tables): it stays what it was, and formats nothing."""

from __future__ import annotations

from pvhdbg.decode.text import printable

_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_HARMLESS = frozenset("\"%',/;?")  # they format nothing anywhere; escaping them too would only be harder to read


def escaped(text: str) -> str:
    """`text` as one paragraph's inline Markdown: every character that could format is escaped (CommonMark 2.4).

    Control characters become visible as in `printable`, but line breaks are spaces: a rule's explanation has several lines.
    """
    flat = " ".join(text.split("\n"))
    shown = "".join(letter if letter.isprintable() else printable(letter) for letter in flat)
    marked = "".join(f"\\{letter}" if letter in _PUNCTUATION - _HARMLESS else letter for letter in shown)
    return marked.strip()
