"""A structure's layout from its DWARF entries (of pyelftools), with types in C's syntax (DWARF 5, 5.7.6: data members).

A missing attribute, or one whose expression is not a constant, gives None; nothing is guessed.
"""

from __future__ import annotations

from math import prod
from typing import Any

from pvhdbg.record import dataclass

_DEPTH = 16  # typedefs, qualifiers, pointers and arrays that are followed to name a type
_PLUS_UCONST = 0x23  # DW_OP_plus_uconst: how DWARF 2 writes a member's offset
_QUALIFIERS = {"DW_TAG_const_type": "const", "DW_TAG_volatile_type": "volatile", "DW_TAG_restrict_type": "restrict",
               "DW_TAG_atomic_type": "_Atomic"}  # fmt: skip
_POINTERS = {"DW_TAG_pointer_type": "*", "DW_TAG_reference_type": "&", "DW_TAG_rvalue_reference_type": "&&"}
KINDS = {"DW_TAG_structure_type": "struct", "DW_TAG_union_type": "union", "DW_TAG_class_type": "class"}


@dataclass(frozen=True)
class Member:
    """One member: its offset and size in bytes (None if DWARF does not say), and its type in C's syntax.

    For a bit field, `bit_size` is its width and `bit_offset` its lowest bit, counted from the byte at `offset`; `size` is the size
    of its type.
    """

    name: str
    offset: int | None
    size: int | None
    type: str
    bit_offset: int | None = None
    bit_size: int | None = None


@dataclass(frozen=True)
class Layout:
    """A structure or union as the compiler laid it out; `kind` is "struct", "union" or "class"."""

    name: str
    size: int
    members: tuple[Member, ...]
    kind: str = "struct"


def layout(entry: Any, name: str) -> Layout:
    """The layout that a structure's DWARF entry describes. Raises ValueError, and any exception of pyelftools for a damaged one."""
    size = _number(entry, "DW_AT_byte_size")
    if size is None:
        raise ValueError(f"DW_AT_byte_size of the entry at {entry.offset:#x} is not a number of 64 bits")
    children = (
        child for child in entry.iter_children() if child.tag == "DW_TAG_member" and "DW_AT_external" not in child.attributes
    )
    return Layout(name, size, tuple(_member(child) for child in children), KINDS[entry.tag])


def entry_name(entry: Any) -> str:
    """DW_AT_name, or ""."""
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "surrogateescape") if attribute is not None else ""


def _number(entry: Any, attribute: str) -> int | None:
    found = entry.attributes.get(attribute)
    return _within(found.value) if found is not None and isinstance(found.value, int) else None


def _within(number: int) -> int | None:
    """The number if it fits 64 bits: DWARF's encoding of numbers has no bound."""
    return number if 0 <= number < 1 << 64 else None


def _member(child: Any) -> Member:
    target = _type(child)
    size, offset = _size(target), _offset(child)
    bits, place = _number(child, "DW_AT_bit_size"), _number(child, "DW_AT_data_bit_offset")
    if bits is not None and place is None and offset is not None:
        storage = _number(child, "DW_AT_byte_size") or size
        high = _number(child, "DW_AT_bit_offset")  # DWARF 2 and 3: counted from the storage's highest bit
        place = None if storage is None or high is None else 8 * offset + 8 * storage - high - bits
    if bits is None:
        return Member(entry_name(child) or "(unnamed)", offset, size, _spelled(target))
    if place is None or place < 0:
        return Member(entry_name(child) or "(unnamed)", None, size, _spelled(target), None, bits)
    return Member(entry_name(child) or "(unnamed)", place // 8, size, _spelled(target), place % 8, bits)


def _offset(child: Any) -> int | None:
    at = child.attributes.get("DW_AT_data_member_location")
    if at is None:
        return 0
    if isinstance(at.value, int):
        return _within(at.value)
    if not isinstance(at.value, list) or not 1 < len(at.value) < 12 or at.value[0] != _PLUS_UCONST:
        return None
    return _within(sum((byte & 0x7F) << 7 * index for index, byte in enumerate(at.value[1:])))


def _type(entry: Any) -> Any:
    return entry.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in entry.attributes else None


def _size(entry: Any) -> int | None:
    count = 1
    for _ in range(_DEPTH):
        if entry is None:
            return None
        if "DW_AT_byte_size" in entry.attributes:
            size = _number(entry, "DW_AT_byte_size")
            return None if size is None else _within(size * count)
        if entry.tag in _POINTERS:
            return _within(int(entry.cu["address_size"]) * count)
        if entry.tag == "DW_TAG_array_type":
            dimensions = _dimensions(entry)
            if None in dimensions:
                return None
            count *= prod(one for one in dimensions if one is not None)
        entry = _type(entry)
    return None


def _dimensions(array: Any) -> list[int | None]:
    """The number of elements of each dimension, None if it is not given."""
    found: list[int | None] = []
    for child in array.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            upper = _number(child, "DW_AT_upper_bound")
            found.append(
                _number(child, "DW_AT_count") if "DW_AT_count" in child.attributes else None if upper is None else upper + 1
            )
            if len(found) == _DEPTH:
                break
    return found


def _spelled(entry: Any, depth: int = 0) -> str:
    if entry is None or depth == _DEPTH:
        return "void"
    if entry.tag in _QUALIFIERS:
        target, word = _type(entry), _QUALIFIERS[entry.tag]
        if target is not None and target.tag == "DW_TAG_array_type":
            return _spelled(target, depth + 1)  # its elements repeat the type
        inner = _spelled(target, depth + 1)
        return f"{inner} {word}" if target is not None and target.tag in _POINTERS else f"{word} {inner}"
    if entry.tag in _POINTERS:
        return f"{_spelled(_type(entry), depth + 1)} {_POINTERS[entry.tag]}"
    if entry.tag == "DW_TAG_array_type":
        counts = "".join(f"[{'' if count is None else count}]" for count in _dimensions(entry))
        return f"{_spelled(_type(entry), depth + 1)}{counts}"
    if entry.tag == "DW_TAG_subroutine_type":
        return "function"
    kind = "enum" if entry.tag == "DW_TAG_enumeration_type" else KINDS.get(entry.tag, "")
    return f"{kind} {entry_name(entry) or '(unnamed)'}".lstrip()
