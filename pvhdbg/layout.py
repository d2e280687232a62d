"""Declare a binary structure once: its fields, in order, are its bytes.

::

    class Module(Structure):
        '''struct hvm_modlist_entry'''
        paddr: int = u64("physical address of the module")
        size: int = u64("size in bytes")

Size, offsets, decoder, encoder and documentation all derive from the declaration. Values are little endian and fields
are aligned to their own size as a C compiler on x86-64 aligns them. Padding: skipped by `decode`, zeroed by `encode`.

To a type checker a structure is a frozen dataclass. It is not one, because Python would compile six functions for each: thirty
structures would take a quarter of the time of a short command.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pvhdbg.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from typing_extensions import dataclass_transform  # typing's from Python 3.11 on
else:

    def dataclass_transform(**_):
        return lambda cls: cls


class Buffer(Protocol):
    """Bytes that structures are read from: `bytes`, a memoryview, a file. A slice holds at most the bytes that were asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes | memoryview: ...


class Storage(NamedTuple):
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


def _scalar(format: str) -> Storage:
    return Storage(format, struct.calcsize(format), struct.calcsize(format))


class _Declared(NamedTuple):
    kind: Storage
    doc: str


def _declare(kind: Storage, doc: str) -> Any:
    return _Declared(kind, doc)


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
    return _declare(Storage(f"{size}s", size, 1), doc)


if TYPE_CHECKING:
    S = TypeVar("S", bound="Structure")


@dataclass_transform(frozen_default=True, field_specifiers=(u8, u16, u32, u64, raw))
class Structure:
    """Base of declared structures, which are immutable values. The module's docstring shows how to write one."""

    ALIGN: ClassVar[int] = 0  # alignment of the whole structure, where C pads its end beyond the widest field's
    _declared: ClassVar[dict[str, _Declared]] = {}
    _laid_out: ClassVar[tuple[struct.Struct, tuple[Field, ...]]]

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, _Declared)}
        cls._declared = {**cls._declared, **own}
        cls._laid_out = _lay_out(cls._declared, cls.ALIGN)

    def __init__(self, *values: Any, **named: Any) -> None:
        names = tuple(self._declared)
        given = {**dict(zip(names, values, strict=False)), **named}
        if len(values) + len(named) != len(names) or given.keys() != self._declared.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
        self.__dict__.update({name: given[name] for name in names})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: a structure is immutable")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def replace(self: S, **changes: Any) -> S:
        """A copy with other values in some fields."""
        return type(self)(**{**self.__dict__, **changes})

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """The fields in order, with their offsets."""
        return cls._laid_out[1]

    @classmethod
    def sizeof(cls) -> int:
        """`sizeof`, in bytes, trailing padding included."""
        return cls._laid_out[0].size

    @classmethod
    def offset_of(cls, name: str) -> int:
        """`offsetof`. Raises KeyError for a field that the structure does not have."""
        return {field.name: field.offset for field in cls.fields()}[name]

    @classmethod
    def decode(cls: type[S], data: Buffer, offset: int = 0) -> S:
        """The structure at `offset` of `data`. Raises ValueError when `data` ends before it does."""
        codec = cls._laid_out[0]
        if len(data) - offset < codec.size or offset < 0:
            raise ValueError(f"{cls.__name__} needs {codec.size} bytes, {max(len(data) - offset, 0)} are there")
        return cls(*codec.unpack(data[offset : offset + codec.size]))

    @classmethod
    def rows(cls, data: Buffer, offset: int, count: int) -> Iterator[tuple[Any, ...]]:
        """`count` structures in a row, as tuples of their fields: for tables of many. Raises ValueError when `data` ends before."""
        codec = cls._laid_out[0]
        if offset < 0 or count < 0 or len(data) - offset < codec.size * count:
            raise ValueError(f"{count} of {cls.__name__} need {codec.size * count} bytes, {max(len(data) - offset, 0)} are there")
        return codec.iter_unpack(data[offset : offset + codec.size * count])

    def encode(self) -> bytes:
        """The structure's bytes. Raises `struct.error` for a value that does not fit its field."""
        return self._laid_out[0].pack(*(getattr(self, name) for name in self._declared))


def _lay_out(declared: dict[str, _Declared], align: int) -> tuple[struct.Struct, tuple[Field, ...]]:
    format, offset, widest, fields = "<", 0, max(align, 1), list[Field]()
    for name, (kind, doc) in declared.items():
        padding = -offset % kind.align
        format += f"{padding}x{kind.format}" if padding else kind.format
        fields.append(Field(name, offset + padding, kind.size, doc))
        offset += padding + kind.size
        widest = max(widest, kind.align)
    tail = -offset % widest
    return struct.Struct(format + (f"{tail}x" if tail else "")), tuple(fields)
