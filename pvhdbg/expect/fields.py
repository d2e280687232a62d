"""The names of the decoded fields in an expectation, and how each is read.

`resolve("modules[0].kind")` gives a `ReportField`, or an error before any machine runs. Names are those of the JSON report, with
short ones for the most frequent fields. Reading raises `Unavailable` for a value that was not observed, and `Absent` for
one that this machine does not have.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

from pvhdbg.decode.boot_state import BootState, Text, Unread, seen
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS, DescriptorTable, Segment, Unavailable
from pvhdbg.spec.start_info import MEMORY_TYPES, MemoryMapEntry
from pvhdbg.spec.x86 import REGISTER_BITS

INDEX_BOUND = 4096
_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[\d{1,6}\])*)")


class Absent(Exception):
    """The machine does not have the field; the message says what it has instead."""


class NoSuchField(Exception):
    """There is no field of that name; the message names the existing ones."""


class ValueKind(Enum):
    """The kind of a field's value; the enum's value describes it in words."""

    NUMBER = "a number"
    SIZE = "a size in bytes"
    TEXT = "text"
    FLAG = "true or false"


_Getter = Callable[[Any], Any]


@dataclass(frozen=True)
class ReportField:
    """One field: its name as written, its kind, and how to read it from a decoded machine."""

    path: str
    kind: ValueKind
    read: Callable[[BootState], Any]


@dataclass(frozen=True)
class _Leaf:
    kind: ValueKind
    read: _Getter


@dataclass(frozen=True)
class _Group:
    """Fields below a name. `item` is set for a list: the content of each entry."""

    read: _Getter
    names: Mapping[str, _Leaf | _Group]
    item: _Group | None = field(default=None)


def _number(read: _Getter) -> _Leaf:
    return _Leaf(ValueKind.NUMBER, read)


def _text(read: _Getter) -> _Leaf:
    return _Leaf(ValueKind.TEXT, read)


def _attributes(kind: ValueKind, *names: str) -> dict[str, _Leaf | _Group]:
    return {name: _Leaf(kind, attrgetter(name)) for name in names}


def _required(value: Any, what: str) -> Any:
    """The value. Raises Unavailable for None."""
    if value is None:
        raise Unavailable(f"{what} was not observed")
    return value


def _observed(kind: ValueKind, *names: str) -> dict[str, _Leaf | _Group]:
    return {name: _Leaf(kind, partial(_seen_in, name=name)) for name in names}


def _seen_in(one: object, name: str, of: str = "") -> Any:
    return _required(getattr(one, name), of + name)


def _string(part: Text | Unread | None) -> str:
    if part is None:
        raise Absent("there is none")
    return str(seen(part))


# --- registers and segments ---------------------------------------------------------------------------------------


def _register(name: str) -> _Leaf | _Group:
    if name not in REGISTER_BITS:
        return _number(itemgetter(name))
    bits = {bit: _number(partial(_bit, position=position)) for bit, position in REGISTER_BITS[name].items()}
    return _Group(itemgetter(name), {"": _number(lambda value: value), **bits})


def _bit(value: int, position: int) -> int:
    return value >> position & 1


_REGISTER_NAMES = (*GENERAL, *EXTENDED, *LOW_HALVES, "rip", "eflags", *SELECTORS, *CONTROL, "fs_base", "gs_base")
_REGISTERS = _Group(lambda boot: boot.registers, {name: _register(name) for name in _REGISTER_NAMES})


def _hidden(one: Segment, name: str) -> int:
    value = getattr(one, name)
    if value is None:
        raise Unavailable(one.missing)
    return int(value)


_PARTS = ("selector", "base", "limit", "flags", "type", "s", "dpl", "present", "avl", "long", "db", "granularity")
_SEGMENT = {name: _number(partial(_hidden, name=name)) for name in _PARTS}


def _segment(boot: BootState, name: str) -> Segment:
    return boot.segments[name]


def _table(boot: BootState, name: str) -> DescriptorTable:
    table: DescriptorTable | None = getattr(boot.segments, name)
    if table is None:
        raise Unavailable(f"{name}: {boot.segments.missing}")
    return table


_SEGMENTS = _Group(
    lambda boot: boot,
    {
        **{name: _Group(partial(_segment, name=name), _SEGMENT) for name in ("cs", "ds", "es", "ss", "fs", "gs", "ldt", "tr")},
        **{name: _Group(partial(_table, name=name), _attributes(ValueKind.NUMBER, "base", "limit")) for name in ("gdt", "idt")},
    },
)

# --- start_info ---------------------------------------------------------------------------------------------------


def _modules(boot: BootState) -> Any:
    return seen(boot.start_info.modules)


_MODULES = _Group(
    _modules,
    {"count": _number(len)},
    _Group(
        lambda one: one,
        {
            "address": _number(lambda one: one.address),
            **{name: _number(attrgetter(f"entry.{name}")) for name in ("paddr", "cmdline_paddr", "reserved")},
            "size": _Leaf(ValueKind.SIZE, lambda one: one.entry.size),
            "command_line": _text(lambda one: _string(one.command_line)),
            "kind": _text(lambda one: one.kind.split(" (")[0]),  # cpio, without its format
        },
    ),
)


def _memory_map(boot: BootState) -> Any:
    entries = boot.start_info.memory_map
    if entries is None:
        raise Absent("there is none")
    return seen(entries)


def _sum(type: int) -> _Getter:
    return lambda entries: sum(entry.size for entry in entries if entry.type == type)


_TYPE_NAMES = {name.lower().replace(" ", "_"): type for type, name in MEMORY_TYPES.items()}
_MEMORY_MAP = _Group(
    _memory_map,
    {"count": _number(len), **{name: _Leaf(ValueKind.SIZE, _sum(type)) for name, type in _TYPE_NAMES.items()}},
    _Group(
        lambda one: one,
        {
            **_attributes(ValueKind.NUMBER, "addr", "type", "reserved"),
            **_attributes(ValueKind.SIZE, "size"),
            "type_name": _text(lambda one: _type_name(one)),
        },
    ),
)


def _type_name(entry: MemoryMapEntry) -> str:
    if entry.type not in MEMORY_TYPES:
        raise Absent(f"type {entry.type} has no name")
    return MEMORY_TYPES[entry.type]


def _rsdp(boot: BootState) -> Any:
    rsdp = boot.start_info.rsdp
    if rsdp is None:
        raise Absent("there is none: rsdp_paddr is 0")
    return seen(rsdp)


_RSDP = _Group(
    _rsdp,
    {
        **_attributes(ValueKind.NUMBER, "address", "revision"),
        "rsdt": _number(lambda rsdp: rsdp.head.rsdt_address),
        "xsdt": _number(lambda rsdp: rsdp.xsdt_address),
    },
)


def _of_version_1(boot: BootState, name: str) -> int:
    v1 = boot.start_info.v1
    if v1 is None:
        raise Absent("a version 0 start_info has no such field")
    return int(getattr(v1, name))


_RAW = ("magic", "version", "flags", "nr_modules", "modlist_paddr", "cmdline_paddr", "rsdp_paddr")
_START_INFO = _Group(
    lambda boot: boot,
    {
        "address": _number(lambda boot: boot.start_info.address),
        **{name: _number(attrgetter(f"start_info.raw.{name}")) for name in _RAW},
        **{name: _number(partial(_of_version_1, name=name)) for name in ("memmap_paddr", "memmap_entries", "reserved")},
        "command_line": _text(lambda boot: _string(boot.start_info.command_line)),
        "modules": _MODULES,
        "memory_map": _MEMORY_MAP,
        "rsdp": _RSDP,
    },
)

# --- everything ---------------------------------------------------------------------------------------------------


def _of_vmm(boot: BootState, name: str) -> str:
    return str(_seen_in(boot.snapshot.vmm, name, "the VMM's "))


def _firmware(boot: BootState) -> str:
    if isinstance(boot.firmware_part, Unread):
        raise Unavailable(boot.firmware_part.reason)
    if boot.firmware_part is None:
        raise Absent("it is not a known firmware")
    return boot.firmware_part.name


def _kernel(boot: BootState) -> Any:
    if boot.snapshot.kernel is None:
        raise Unavailable("the kernel file was not seen; name it with --kernel")
    return boot.snapshot.kernel


def _build_id(kernel: Any) -> str:
    if kernel.build_id is None:
        raise Absent("the kernel has none") if kernel.source == "ELF file" else Unavailable("the kernel file was not seen")
    return str(kernel.build_id)


_ROOT = _Group(
    lambda boot: boot,
    {
        "vmm": _Group(
            lambda boot: boot,
            {
                **{name: _text(partial(_of_vmm, name=name)) for name in ("name", "version", "accelerator")},
                "firmware": _text(_firmware),
            },
        ),
        "kernel": _Group(
            _kernel, {**_observed(ValueKind.TEXT, "path"), "build_id": _text(_build_id), **_observed(ValueKind.NUMBER, "entry")}
        ),
        "entry": _Group(
            lambda boot: boot.snapshot.entry,
            {
                **_observed(ValueKind.NUMBER, "address"),
                "found_by": _Leaf(ValueKind.TEXT, attrgetter("found_by.value")),
                **_observed(ValueKind.TEXT, "symbol"),
            },
        ),
        "registers": _REGISTERS,
        "segments": _SEGMENTS,
        "a20": _Leaf(ValueKind.FLAG, lambda boot: _required(boot.snapshot.a20, "the A20 gate")),
        "start_info": _START_INFO,
        "command_line": _START_INFO.names["command_line"],
        "modules": _MODULES,
        "memory_map": _MEMORY_MAP,
    },
)


def every_path() -> tuple[str, ...]:
    """The paths of all fields; of a list those of its first entry."""

    def below(node: _Leaf | _Group, path: str) -> Iterator[str]:
        if isinstance(node, _Leaf):
            yield path
            return
        for name, one in node.names.items():
            yield from below(one, f"{path}.{name}".strip(".") if name else path)
        if node.item is not None:
            yield from below(node.item, f"{path}[0]")

    return tuple(below(_ROOT, ""))


def resolve(path: str) -> ReportField:
    """The field of that name. Raises NoSuchField."""
    node: _Leaf | _Group = _ROOT
    reads: list[_Getter] = []
    said = ""
    for part in path.split("."):
        step = _STEP.fullmatch(part)
        if step is None:
            raise NoSuchField(f"{path!r:.80} is not a field: write it like start_info.command_line or modules[0].kind")
        node = _below(node, step[1], said)
        said = f"{said}.{step[1]}".lstrip(".")
        reads.append(node.read)
        for index in re.findall(r"\d+", step[2]):
            if isinstance(node, _Leaf) or node.item is None:
                raise NoSuchField(f"{said} is not a list: it has no [{index}]")
            if int(index) >= INDEX_BOUND:
                raise NoSuchField(f"{said}[{index}] is beyond the entries that are read")
            node = node.item
            reads += [_entry(int(index)), node.read]
            said += f"[{index}]"
    if isinstance(node, _Group):
        whole = node.names.get("")
        if not isinstance(whole, _Leaf):
            raise NoSuchField(f"{said} is not a single value: name one of {_listed(node, said)}")
        node = whole
        reads.append(whole.read)
    return ReportField(path, node.kind, lambda boot: _through(boot, reads))


def _through(value: Any, reads: list[_Getter]) -> Any:
    for read in reads:
        value = read(value)
    return value


def _entry(index: int) -> _Getter:
    def read(entries: Any) -> Any:
        if index >= len(entries):
            raise Absent(f"there {'is' if len(entries) == 1 else 'are'} {len(entries) or 'none'}")
        return entries[index]

    return read


def _below(node: _Leaf | _Group, name: str, said: str) -> _Leaf | _Group:
    if isinstance(node, _Leaf):
        raise NoSuchField(f"{said} is {node.kind.value}: it has no .{name:.40}")
    found = node.names.get(name)
    if found is None:
        near = difflib.get_close_matches(name, [one for one in node.names if one], 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_listed(node, said)}"
        raise NoSuchField(f"there is no {f'{said}.' if said else ''}{name:.40}: {hint}")
    return found


def _listed(node: _Group, said: str) -> str:
    names = [name for name in node.names if name]
    shown = ", ".join(names[:16]) + (", …" if len(names) > 16 else "")
    return f"{shown}, or {said}[0]" if node.item else shown
