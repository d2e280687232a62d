"""The one place where bytes from outside become text: control characters are escaped before they reach a terminal."""

from __future__ import annotations


def printable(data: bytes | str) -> str:
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
    return "".join(parts)


def quoted(data: bytes) -> str:
    """Bytes from a structure in quotation marks, safe as `printable`."""
    return f"“{printable(data)}”"


def safe(data: bytes | str) -> str:
    """Like `printable`, for messages: backslashes stay unchanged, so that a second call changes nothing."""
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else printable(letter) for letter in text)


def shorten(text: str, width: int) -> str:
    """`text` cut to `width` characters, followed by the number of omitted ones."""
    if len(text) <= width:
        return text
    kept = max(width - 16, 8)
    return f"{text[:kept]}… (+{len(text) - kept})"
