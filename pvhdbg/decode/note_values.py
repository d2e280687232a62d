"""The meaning of a note: its correct name, and its descriptor in words.

Numbers are read by their width (libelf reads 1, 2, 4 or 8 bytes). A descriptor of another width, or of an unknown owner,
stays bytes.
"""

from __future__ import annotations

from pvhdbg.decode.notes import Note
from pvhdbg.decode.text import printable, shorten
from pvhdbg.record import dataclass
from pvhdbg.spec.elf_notes import (
    FEATURES,
    L1_MFN_VALID,
    OTHER_NOTES,
    PHYS32_RELOC,
    SUPPORTED_FEATURES,
    XEN_FEATURES,
    XEN_NOTES,
    NoteKind,
)

_SHOWN = 64  # bytes of a descriptor that are shown
_TEXT = 1024
_RELOC = (("alignment", 0x200000), ("lowest start", 0), ("highest end", 0xFFFFFFFF))


@dataclass(frozen=True)
class NoteValue:
    """A note in words. `lines` explain a value that has parts; `number` is set for numbers of 1, 2, 4 or 8 bytes."""

    name: str
    kind: NoteKind
    text: str
    meaning: str = ""
    lines: tuple[str, ...] = ()
    number: int | None = None


def owner_name(note: Note) -> str:
    """The owner without its NUL, as safe text."""
    return shorten(printable(note.owner.removesuffix(b"\0")), 40)


def value(note: Note) -> NoteValue:
    """Decode one note. Raises nothing."""
    known = XEN_NOTES.get(note.type) if note.is_xen else OTHER_NOTES.get((note.owner, note.type))
    if known is None:
        return NoteValue(f"type {note.type:#x}", NoteKind.UNKNOWN, _bytes(note.desc))
    if known.kind is NoteKind.STRING:
        text = _string(note.desc)
        lines = tuple(_feature(name) for name in text.split("|") if name) if note.is_xen and note.type == FEATURES else ()
        return NoteValue(known.name, known.kind, f"“{text}”", known.meaning, lines)
    if known.kind is NoteKind.NUMBER and len(note.desc) in (1, 2, 4, 8):
        number = int.from_bytes(note.desc, "little")
        lines = _bits(number) if note.is_xen and note.type == SUPPORTED_FEATURES else ()
        return NoteValue(known.name, known.kind, f"{number:#x}", known.meaning, lines, number)
    if known.kind is NoteKind.ARRAY and note.is_xen:
        lines = {PHYS32_RELOC: _reloc, L1_MFN_VALID: _pairs}[note.type](note.desc)
        return NoteValue(known.name, known.kind, f"{len(note.desc)} bytes", known.meaning, lines)
    if known.kind is NoteKind.IDENTITY:
        return NoteValue(known.name, known.kind, shorten(note.desc.hex(), 2 * _SHOWN), known.meaning)
    return NoteValue(known.name, NoteKind.BINARY if known.kind is NoteKind.NUMBER else known.kind, _bytes(note.desc), known.meaning)


def _string(desc: bytes) -> str:
    return shorten(printable(desc[:_TEXT].split(b"\0")[0]), _TEXT // 2)


def _bytes(desc: bytes) -> str:
    return (desc[:_SHOWN].hex(" ", 4) + (f"… (+{len(desc) - _SHOWN})" if len(desc) > _SHOWN else "")) or "nothing"


def _feature(name: str) -> str:
    required = name.startswith("!")
    plain = name.removeprefix("!")
    number = f"bit {XEN_FEATURES.index(plain)}" if plain in XEN_FEATURES else "not a feature of Xen"
    return f"{plain}: {'required' if required else 'supported'}, {number}"


def _bits(number: int) -> tuple[str, ...]:
    found = [bit for bit in range(number.bit_length()) if number >> bit & 1]
    return tuple(f"bit {bit}: {XEN_FEATURES[bit] if bit < len(XEN_FEATURES) else 'not a feature of Xen'}" for bit in found)


def _reloc(desc: bytes) -> tuple[str, ...]:
    """The bounds within which the kernel may be moved; omitted ones have a default (Xen 4.19)."""
    given = [int.from_bytes(desc[at : at + 4], "little") for at in range(0, min(len(desc) - len(desc) % 4, 12), 4)]
    return tuple(
        f"{name}: {given[index]:#x}" if index < len(given) else f"{name}: {default:#x} (default)"
        for index, (name, default) in enumerate(_RELOC)
    )


def _pairs(desc: bytes) -> tuple[str, ...]:
    """Mask and value, each as wide as a machine address: 8 bytes, or 4 if the descriptor has only room for one such pair."""
    width = 4 if len(desc) % 16 and len(desc) % 8 == 0 else 8
    numbers = [int.from_bytes(desc[at : at + width], "little") for at in range(0, min(len(desc), _SHOWN), width)]
    return tuple(f"mask {mask:#x}, value {valid:#x}" for mask, valid in zip(numbers[::2], numbers[1::2], strict=False))
