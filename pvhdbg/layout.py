"""Declare a binary structure once: a frozen dataclass whose fields, in order, are its bytes.

::

    @dataclass(frozen=True)
    class Module(Structure):
        '''struct hvm_modlist_entry'''
        paddr: int = u64("physical address of the module")
        size: int = u64("size in bytes")

Size, offsets, decoder, encoder and documentation all derive from the declaration. Values are little endian and fields
are aligned to their own size as a C compiler on x86-64 aligns them. Padding: skipped by `decode`, zeroed by `encode`.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

_LAYOUT = "layout"
_DOC = "doc"


class Buffer(Protocol):
    """Bytes that structures are read from, wherever they are kept: `bytes`, a memoryview, a file. A slice holds no more than asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes | memoryview: ...


class Kind(NamedTuple):
    """How one field is stored: a `struct` format without byte order, its size in bytes and its alignment."""

    format: str
    size: int
    align: int


class Field(NamedTuple):
    """One field of a structure as laid out: `offset` and `size` in bytes, and what it means."""

    name: str
    offset: int
    size: int
    doc: str


def _scalar(format: str) -> Kind:
    return Kind(format, struct.calcsize(format), struct.calcsize(format))


def _declare(kind: Kind, doc: str) -> Any:
    return dataclasses.field(metadata={_LAYOUT: kind, _DOC: doc})


def u8(doc: str) -> Any:
    """A `uint8_t`."""
    return _declare(_scalar("B"), doc)


def u16(doc: str) -> Any:
    """A `uint16_t`."""
    return _declare(_scalar("H"), doc)


def u32(doc: str) -> Any:
    """A `uint32_t`."""
    return _declare(_scalar("I"), doc)


def u64(doc: str) -> Any:
    """A `uint64_t`."""
    return _declare(_scalar("Q"), doc)


def raw(size: int, doc: str) -> Any:
    """A `char[size]`, kept as bytes."""
    return _declare(Kind(f"{size}s", size, 1), doc)


S = TypeVar("S", bound="Structure")


@dataclasses.dataclass(frozen=True)
class Structure:
    """Base of declared structures. See the module's docstring for how one is written."""

    ALIGN: ClassVar[int] = 0  # a structure that C pads at its end beyond its widest field says so here

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """The fields in order, with their offsets."""
        return _laid_out(cls)[1]

    @classmethod
    def sizeof(cls) -> int:
        """`sizeof`, in bytes, trailing padding included."""
        return _laid_out(cls)[0].size

    @classmethod
    def offset_of(cls, name: str) -> int:
        """`offsetof`. Raises KeyError for a field that the structure does not have."""
        return {field.name: field.offset for field in cls.fields()}[name]

    @classmethod
    def decode(cls: type[S], data: Buffer, offset: int = 0) -> S:
        """The structure at `offset` of `data`. Raises ValueError when `data` ends before it does."""
        codec = _laid_out(cls)[0]
        if len(data) - offset < codec.size or offset < 0:
            raise ValueError(f"{cls.__name__} needs {codec.size} bytes, {max(len(data) - offset, 0)} are there")
        return cls(*codec.unpack(data[offset : offset + codec.size]))

    def encode(self) -> bytes:
        """The structure's bytes. Raises `struct.error` for a value that does not fit its field."""
        values = [getattr(self, field.name) for field in self.fields()]
        return _laid_out(type(self))[0].pack(*values)


_LAID_OUT: dict[type[Structure], tuple[struct.Struct, tuple[Field, ...]]] = {}


def _laid_out(cls: type[Structure]) -> tuple[struct.Struct, tuple[Field, ...]]:
    known = _LAID_OUT.get(cls)
    if known is not None:
        return known
    format, offset, widest, fields = "<", 0, max(cls.ALIGN, 1), []
    for field in dataclasses.fields(cls):
        kind: Kind = field.metadata[_LAYOUT]
        padding = -offset % kind.align
        format += f"{padding}x{kind.format}" if padding else kind.format
        fields.append(Field(field.name, offset + padding, kind.size, field.metadata[_DOC]))
        offset += padding + kind.size
        widest = max(widest, kind.align)
    tail = -offset % widest
    _LAID_OUT[cls] = struct.Struct(format + (f"{tail}x" if tail else "")), tuple(fields)
    return _LAID_OUT[cls]
