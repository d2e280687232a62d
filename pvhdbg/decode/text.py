"""The one place where bytes from outside become text: control characters are escaped before they reach a terminal."""

from __future__ import annotations

from typing import NewType, TypeVar

SafeText = NewType("SafeText", str)
"""Text from outside that has passed one of the functions here: what is shown of a symbol's name or a serial line has this type."""

NOTHING = SafeText("")
T = TypeVar("T", SafeText, str)

# How logs of continuous integration are spoken to. GitHub and Azure look for two of them anywhere in a line, for "::" at its beginning.
_COMMANDS = ("##[", "##vso[")
_AT_BEGINNING = "::"


def printable(data: bytes | str) -> SafeText:
    """`data` as one line of safe text: printable ASCII unchanged, everything that could control a terminal as \\xNN or \\uNNNN."""
    text = data if isinstance(data, str) else data.decode("latin-1")
    wide = isinstance(data, str)
    parts = []
    for letter in text:
        code = ord(letter)
        if letter == "\\":
            parts.append("\\\\")
        elif letter == "\n":
            parts.append("\\n")
        elif letter == "\t":
            parts.append("\\t")
        elif letter.isprintable() and (wide or code < 0x7F):
            parts.append(letter)
        else:
            parts.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return _uncommanding("".join(parts))


def quoted(data: bytes) -> SafeText:
    """Bytes from a structure in quotation marks, safe as `printable`."""
    return SafeText(f"“{printable(data)}”")


def safe(data: bytes | str) -> SafeText:
    """Like `printable`, for messages: backslashes stay unchanged, so that a second call changes nothing."""
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else printable(letter) for letter in text)
    return _uncommanding(text)


def _uncommanding(text: str) -> SafeText:
    for command in _COMMANDS:
        if command in text:
            text = text.replace(command, f"#\\x23{command[2:]}")
    return SafeText(text)


def own_line(text: SafeText) -> SafeText:
    """A guest's line as it may stand alone in a log: one that begins like a command to GitHub's runner stands behind a bar."""
    return SafeText(f"| {text}") if text.lstrip().startswith(_AT_BEGINNING) else text


def shorten(text: T, width: int) -> T:
    """`text` cut to `width` characters, followed by the number of omitted ones."""
    if len(text) <= width:
        return text
    kept = max(width - 16, 8)
    return SafeText(f"{text[:kept]}… (+{len(text) - kept})")
