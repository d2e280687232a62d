"""Elements of XML and HTML as text that is safe by construction: everything except `Markup` is escaped when it is inserted.

The result is well formed as XML 1.0 and as HTML: every element is closed by name, except for HTML's void ones; attributes are
quoted; control characters, most of which XML 1.0 forbids, are shown as `printable` shows them, except for newlines.
"""

from __future__ import annotations

from pvhdbg.decode.text import printable

_VOID = frozenset({"meta", "br", "hr", "col", "input"})
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(foreign: str) -> Markup:
    """`foreign` as character data or an attribute's value; newlines stay, other control characters are escaped."""
    if foreign.isprintable():
        return Markup(foreign.translate(_ENTITIES))
    shown = "".join(letter if letter.isprintable() or letter == "\n" else printable(letter) for letter in foreign)
    return Markup(shown.translate(_ENTITIES))


def join(*parts: str | None) -> Markup:
    """The parts one after the other, each escaped unless it is Markup; None adds nothing."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts if part is not None))


def tag(name: str, /, *children: str | None, **attributes: str | int | None) -> Markup:
    """One element. An attribute that is None is left out; `class_` is "class", `stroke_width` is "stroke-width"."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")
