"""The JSON answers of commands that show one thing, each as one named tuple: the document and its schema both follow from it.

A field of type `Hex` is a hexadecimal string; `PartOf` is a part of another schema's document, which has the same form here. What was
not observed is null. `ANSWERS` names them all: the answer NAME has the schema pvhdbg/NAME/1, in report/schemas/NAME-1.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType, NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pvhdbg.decode.cpu_mode import Evidence
from pvhdbg.decode.descriptors import Descriptor, Gate
from pvhdbg.decode.page_map import MappedRange
from pvhdbg.decode.paging import Level
from pvhdbg.model import HEX, Hex
from pvhdbg.report.json_text import written
from pvhdbg.tracing.chapters import Chapter
from pvhdbg.tracing.story import Started


class PartOf(NamedTuple):
    """Marks a field that has the form of a property in another schema: its name and the way to the property in it."""

    schema: str
    way: tuple[str | int, ...]


_START_INFO = ("properties", "start_info", "anyOf", 0, "properties")
TraceLine = Annotated[Mapping[str, Any], PartOf("trace", ())]  # a line of a saved trace


# --- the CPU ------------------------------------------------------------------------------------------------------


class SegmentsAnswer(NamedTuple):
    """The hidden segment state."""

    segments: Annotated[Mapping[str, Any], PartOf("regs", ("properties", "segments"))]


class ModeAnswer(NamedTuple):
    """The CPU's mode, and the bits that it follows from. `code` is the width of code in bits, `privilege` the CPL."""

    name: str
    paging: str
    code: int | None
    privilege: int | None
    evidence: tuple[Evidence, ...]


class GdtAnswer(NamedTuple):
    """The global descriptor table without its null entries. `loaded` has the registers that hold a selector of it."""

    base: Hex
    limit: Hex
    entries: tuple[Descriptor, ...]
    loaded: Mapping[str, Hex]


class IdtAnswer(NamedTuple):
    """The interrupt descriptor table without its empty entries; in real mode its vectors. `names` has the symbols of handlers."""

    base: Hex
    limit: Hex
    real_mode: bool
    entries: tuple[Gate, ...]
    names: Mapping[str, str]


class TssAnswer(NamedTuple):
    """The task state segment. `width` is null while TR has its reset value; `missing` are fields beyond its limit."""

    base: Hex
    limit: Hex
    selector: Hex
    width: int | None
    values: Mapping[str, Hex]
    missing: tuple[str, ...]


# --- what was handed over -----------------------------------------------------------------------------------------


class ModulesAnswer(NamedTuple):
    """The modules that were handed over."""

    nr_modules: int
    modlist_paddr: Hex
    modules: Annotated[Any, PartOf("info", (*_START_INFO, "modules"))]
    modules_missing: Annotated[Any, PartOf("info", (*_START_INFO, "modules_missing"))]


class MemoryMapAnswer(NamedTuple):
    """The memory map that was handed over."""

    memory_map: Annotated[Any, PartOf("info", (*_START_INFO, "memory_map"))]
    memory_map_missing: Annotated[Any, PartOf("info", (*_START_INFO, "memory_map_missing"))]


class CommandLineAnswer(NamedTuple):
    """The command line that was handed over."""

    command_line: Annotated[Any, PartOf("info", (*_START_INFO, "command_line"))]
    command_line_missing: Annotated[Any, PartOf("info", (*_START_INFO, "command_line_missing"))]


class ShownAcpiTable(NamedTuple):
    """An ACPI table that a root table lists. `sound`: its bytes sum to zero; null where they were not summed, and `problem` says why."""

    address: Hex
    signature: str | None
    length: Hex | None
    revision: int | None
    oem_id: str | None
    sound: bool | None
    problem: str | None


class AcpiTablesAnswer(NamedTuple):
    """The ACPI root, and every table that it lists."""

    rsdp: Annotated[Any, PartOf("info", (*_START_INFO, "rsdp"))]
    rsdp_missing: Annotated[Any, PartOf("info", (*_START_INFO, "rsdp_missing"))]
    tables: tuple[ShownAcpiTable, ...]


# --- memory and code ----------------------------------------------------------------------------------------------


class LogMessage(NamedTuple):
    """One message of Linux' log buffer: seconds of the kernel's clock, its level (0 to 7). Null where only its text was found."""

    seconds: float | None
    level: int | None
    text: str


class LogAnswer(NamedTuple):
    """Linux' log buffer, the oldest message first."""

    messages: tuple[LogMessage, ...]


class EntryAnswer(NamedTuple):
    """The entry, and where the machine is now. The offsets are how far the kernel was moved in physical and in linear memory."""

    address: Hex
    symbol: str | None
    found_by: str
    now: str
    load_bias: Hex
    kaslr_offset: Hex | None


class PageWalkAnswer(NamedTuple):
    """A walk of the page tables. `scheme` is null with paging off; `physical` where nothing is mapped, and `problem` says why."""

    linear: Hex
    symbol: str | None
    scheme: str | None
    levels: tuple[Level, ...]
    physical: Hex | None
    page_size: Hex | None
    problem: str | None


class PageRangesAnswer(NamedTuple):
    """All that the page tables map: ranges of equal rights. `more` ranges were left out, `unread` tables cannot be read."""

    scheme: str | None
    ranges: tuple[MappedRange, ...]
    more: int
    unread: int
    cut: bool


class MemoryAnswer(NamedTuple):
    """Physical memory: its bytes, and the same as little-endian values of `unit` bytes."""

    address: Hex
    unit: int
    values: tuple[Hex, ...]
    data: bytes


class MachineCode(NamedTuple):
    """One instruction. `symbol` names its address, `target` the function that it calls."""

    address: Hex
    code: bytes
    text: str
    symbol: str | None
    target: str | None
    current: bool


class DisassemblyAnswer(NamedTuple):
    """Instructions in the CPU's current mode."""

    mode: str
    instructions: tuple[MachineCode, ...]


class PlacedSymbol(NamedTuple):
    """A symbol: its current linear address (null where the kernel is not in memory), its physical and its linked address."""

    name: str
    now: Hex | None
    physical: Hex
    linked: Hex


class SymbolsAnswer(NamedTuple):
    """The kernel's symbols that were asked for. `known` is how many the file has, `more` how many matches were left out.

    `at` is the symbol at an address that was asked for.
    """

    path: str
    known: int
    in_memory: bool
    load_bias: Hex
    kaslr_offset: Hex | None
    symbols: tuple[PlacedSymbol, ...]
    more: int
    at: str | None


class ShownNote(NamedTuple):
    """An ELF note. `name` is null for a type that the owner is not known to have; `data` are the bytes of its descriptor."""

    owner: str
    type: Hex
    name: str | None
    value: str | None
    data: bytes
    size: int


class NotesAnswer(NamedTuple):
    """The kernel's ELF notes."""

    path: str
    notes: tuple[ShownNote, ...]


# --- traces -------------------------------------------------------------------------------------------------------


class TracedAnswer(NamedTuple):
    """A trace as far as it is shown: lines of the saved trace, its head first and its end last. `reached`: the goal was, if there was one."""

    records: tuple[TraceLine, ...]
    warnings: tuple[str, ...]
    reached: bool | None


class RegisterChange(NamedTuple):
    """A change of a register by an instruction; `old` is null where it had not been seen before."""

    old: Hex | None
    new: Hex
    instruction: str
    event: TraceLine


class TraceQueryAnswer(NamedTuple):
    """What a saved trace says of a register (`changes`) or of the instructions around a sequence number (`events`)."""

    asked: str
    changes: tuple[RegisterChange, ...]
    events: tuple[TraceLine, ...]
    cut: bool


class TraceDiffAnswer(NamedTuple):
    """Where two saved traces part. `at` is a sequence number, or the place in the order of functions; null where they are the same."""

    same: bool
    at: int | None
    why: str | None
    shared: tuple[TraceLine, ...]
    a: TraceLine | None
    b: TraceLine | None
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


class ModeSpan(NamedTuple):
    """Instructions in one mode: the first one, and the one after the last."""

    mode: str
    first: int
    behind: int


class TimelineAnswer(NamedTuple):
    """How long a boot stayed in each mode, and its milestones."""

    modes: tuple[ModeSpan, ...]
    milestones: tuple[TraceLine, ...]
    instructions: int
    ended: str


# --- recorded boots -----------------------------------------------------------------------------------------------


class RecordedHow(NamedTuple):
    """How a boot was recorded."""

    kernel: str
    vmm: str
    deterministic: bool
    seconds: float
    ended: str


class BootAnswer(NamedTuple):
    """A boot that was recorded. `exact`: instructions were counted one by one; `lost` blocks did not fit into the table."""

    recorded: RecordedHow
    instructions: int
    exact: bool
    blocks: int
    lost: int


class BootFunctionsAnswer(NamedTuple):
    """The functions of a recorded boot in the order of their first execution; `more` were left out. `parent` reached a function first.

    `exact`: instructions were counted one by one. Chapters go from instruction `first` to the one before `behind`.
    """

    recorded: RecordedHow
    exact: bool
    chapters: tuple[Chapter, ...]
    functions: tuple[Started, ...]
    more: int


class FunctionCost(NamedTuple):
    """The instructions that a function executed."""

    name: str
    instructions: int


class BootProfileAnswer(NamedTuple):
    """How many instructions each function of a recorded boot executed, most first; `more` functions were left out."""

    recorded: RecordedHow
    exact: bool
    chapters: tuple[Chapter, ...]
    functions: tuple[FunctionCost, ...]
    more: int


class BlockRun(NamedTuple):
    """A block that was executed, from instruction `number` on."""

    number: int
    pc: Hex
    symbol: str | None
    instructions: int


class BootBlocksAnswer(NamedTuple):
    """Blocks that a CPU executed, in order; `full`: the recording of them ended before the boot."""

    recorded: RecordedHow
    exact: bool
    blocks: tuple[BlockRun, ...]
    full: bool


class FileCoverage(NamedTuple):
    """A source file: its lines that have code, and how many of them were executed."""

    file: str
    lines: int
    executed: int


class BootCoverageAnswer(NamedTuple):
    """How many functions of its kernel a boot executed, `of` how many (null: not known), and its source files, with debug info."""

    recorded: RecordedHow
    functions: int
    of: int | None
    files: tuple[FileCoverage, ...]


class BootDiffAnswer(NamedTuple):
    """Where two deterministic boots part: after so many `functions` that are the same, and at which function numbers first differ.

    `moved` are functions of both that come in another order; `cause` is the answer to --which-option.
    """

    a: RecordedHow
    b: RecordedHow
    same: bool
    functions: int
    common: tuple[str, ...]
    next_a: tuple[Started, ...]
    next_b: tuple[Started, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shifted_a: Started | None
    shifted_b: Started | None
    moved: tuple[str, ...]
    cause: str | None


# --- stress ---------------------------------------------------------------------------------------------------------


class TrialAnswer(NamedTuple):
    """One boot with some mutations. `fate` is "survives", "dies", "does not reach the goal in time" or "not tried"; `allowed` is the reason
    in the file of expectations."""

    ids: tuple[str, ...]
    fate: str
    cause: str
    next: str
    allowed: str | None


class StressAnswer(NamedTuple):
    """What a guest survives of what the ABI leaves open. `sets` are the smallest of the random sets that it does not survive."""

    goal: str
    mutations: tuple[TrialAnswer, ...]
    rounds: int
    seed: int
    sets: tuple[TrialAnswer, ...]
    conclusion: str


class MutationAnswer(NamedTuple):
    """One mutation. `clause` leaves it open, `done_by` are VMMs that do it."""

    id: str
    title: str
    aspect: str
    clause: str
    done_by: str


class MutationsAnswer(NamedTuple):
    """The mutations that `pvhdbg stress` can make."""

    mutations: tuple[MutationAnswer, ...]


# --- pvhdbg itself ------------------------------------------------------------------------------------------------


class ToolState(NamedTuple):
    """A program or package that pvhdbg uses: its version, or what is wrong with it; the commands that need it; how to get it."""

    name: str
    present: bool
    detail: str | None
    needed_by: str
    package: str


class DoctorAnswer(NamedTuple):
    """What is here of all that pvhdbg uses. `ready`: kernels can be started."""

    version: str
    python: str
    tools: tuple[ToolState, ...]
    ready: bool


class ListedVmm(NamedTuple):
    """A VMM that can boot the probe: `missing` and `todo` say why it cannot be run here, and what to do about it."""

    name: str
    title: str
    here: bool
    version: str | None
    path: str | None
    missing: str | None
    todo: str | None


class ProbeListAnswer(NamedTuple):
    """The VMMs that the probe can be booted under."""

    vmms: tuple[ListedVmm, ...]


class ProbedVmmState(NamedTuple):
    """One VMM of a table: the conclusion on its hand-off, what is `missing` here, or the `error` of its boot."""

    name: str
    title: str
    version: str | None
    missing: str | None
    error: str | None
    conclusion: str | None
    exit_code: int | None


class RuleByVmm(NamedTuple):
    """A rule's outcome for each VMM that was judged."""

    id: str
    severity: str
    outcomes: Mapping[str, str]


class ProbeTableAnswer(NamedTuple):
    """The probe under all VMMs that are here."""

    vmms: tuple[ProbedVmmState, ...]
    rules: tuple[RuleByVmm, ...]
    exit_code: int


class SettingState(NamedTuple):
    """A setting: its value, and the file or the variable that it is from; null where the default holds."""

    name: str
    value: str | None
    source: str | None


class ConfigAnswer(NamedTuple):
    """The settings, and where they are from."""

    settings: tuple[SettingState, ...]


class SchemasAnswer(NamedTuple):
    """The ids of all schemas."""

    schemas: tuple[str, ...]


ANSWERS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "segments": SegmentsAnswer,
        "mode": ModeAnswer,
        "gdt": GdtAnswer,
        "idt": IdtAnswer,
        "tss": TssAnswer,
        "modules": ModulesAnswer,
        "memmap": MemoryMapAnswer,
        "cmdline": CommandLineAnswer,
        "rsdp": AcpiTablesAnswer,
        "entry": EntryAnswer,
        "pagewalk": PageWalkAnswer,
        "dmesg": LogAnswer,
        "pagemap": PageRangesAnswer,
        "memory": MemoryAnswer,
        "disas": DisassemblyAnswer,
        "symbols": SymbolsAnswer,
        "notes": NotesAnswer,
        "traced": TracedAnswer,
        "trace-query": TraceQueryAnswer,
        "trace-diff": TraceDiffAnswer,
        "timeline": TimelineAnswer,
        "boot-recorded": BootAnswer,
        "boot-show": BootFunctionsAnswer,
        "boot-profile": BootProfileAnswer,
        "boot-coverage": BootCoverageAnswer,
        "boot-blocks": BootBlocksAnswer,
        "boot-diff": BootDiffAnswer,
        "doctor": DoctorAnswer,
        "probe-list": ProbeListAnswer,
        "probe-table": ProbeTableAnswer,
        "config": ConfigAnswer,
        "schemas": SchemasAnswer,
        "stress": StressAnswer,
        "mutations": MutationsAnswer,
    }
)

_NAMES = MappingProxyType({kind: name for name, kind in ANSWERS.items()})


# --- the document -------------------------------------------------------------------------------------------------


def render(answer: NamedTuple) -> str:
    """The answer as a JSON document."""
    return written({"schema": f"pvhdbg/{_NAMES[type(answer)]}/1", **plain(answer, type(answer))})


def plain(value: Any, kind: Any) -> Any:
    """A value as JSON has it, by its declared type."""
    if value is None:
        return None
    if get_origin(kind) is Annotated:
        inner, mark = get_args(kind)
        return value if isinstance(mark, PartOf) else f"{value:#x}" if mark == HEX else plain(value, inner)
    if fields := fields_of(kind):
        return {name: plain(getattr(value, name), one) for name, one in fields.items()}
    if (inside := contents(kind)) is not None:
        if isinstance(value, Mapping):
            return {str(name): plain(one, inside) for name, one in value.items()}
        return [plain(one, inside) for one in value]
    if (one := not_null(kind)) is not None:
        return plain(value, one)
    if isinstance(value, Enum):
        return value.value
    return value.hex() if isinstance(value, bytes) else value


@cache
def fields_of(kind: Any) -> Mapping[str, Any]:
    """The fields of a dataclass or named tuple with their types; empty for any other type."""
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return get_type_hints(kind, include_extras=True)
    return {}


def contents(kind: Any) -> Any | None:
    """The type of the values in a tuple of any length, or in a mapping; None for any other type."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple and arguments[1:] == (Ellipsis,):
        return arguments[0]
    return arguments[1] if isinstance(origin := get_origin(kind), type) and issubclass(origin, Mapping) else None


def not_null(kind: Any) -> Any | None:
    """`X` of `X | None`; None for any other type."""
    arguments = get_args(kind)
    if NoneType not in arguments:
        return None
    return next(one for one in arguments if one is not NoneType)


# --- the schema ---------------------------------------------------------------------------------------------------


def schema(name: str, others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of the answer of that name. `others` are the schemas that it takes parts of, by name."""
    kind = ANSWERS[name]
    definitions: dict[str, Any] = {}
    found = _of(kind, others, definitions)
    properties = {"schema": {"const": f"pvhdbg/{name}/1"}, **found["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"pvhdbg/{name}/1",
        "title": " ".join(str(kind.__doc__).split()),
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }


def _of(kind: Any, others: Mapping[str, Mapping[str, Any]], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type. What other schemas define is added to `definitions`."""
    if get_origin(kind) is Annotated:
        inner, mark = get_args(kind)
        if isinstance(mark, PartOf):
            return _part(mark, others[mark.schema], definitions)
        definitions["hex"] = {"type": "string", "pattern": "^-?0x[0-9a-f]+$"}
        return {"$ref": "#/$defs/hex"} if mark == HEX else _of(inner, others, definitions)
    if fields := fields_of(kind):
        shown = {name: _of(one, others, definitions) for name, one in fields.items()}
        return {"type": "object", "properties": shown, "required": list(shown), "additionalProperties": False}
    if (inside := contents(kind)) is not None:
        found = _of(inside, others, definitions)
        return {"type": "array", "items": found} if get_origin(kind) is tuple else {"type": "object", "additionalProperties": found}
    if (one := not_null(kind)) is not None:
        return {"anyOf": [_of(one, others, definitions), {"type": "null"}]}
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string", bytes: "string"}[kind]}


def _part(part: PartOf, whole: Mapping[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A part of another schema, and what it refers to, as definitions under that schema's name."""
    found: Any = whole
    for step in part.way:
        found = found[step]
    if not part.way:
        found = {name: one for name, one in whole.items() if not name.startswith("$") and name != "title"}
    key = f"{part.schema}-{part.way[-1]}" if part.way else part.schema
    waiting = {key: found}
    while waiting:
        name, one = waiting.popitem()
        definitions[name] = _renamed(one, part.schema)
        for other, inner in whole.get("$defs", {}).items():
            if f"'#/$defs/{other}'" in str(one) and f"{part.schema}-{other}" not in definitions:
                waiting[f"{part.schema}-{other}"] = inner
    return {"$ref": f"#/$defs/{key}"}


def _renamed(part: Any, schema: str) -> Any:
    if isinstance(part, Mapping):
        return {
            name: f"#/$defs/{schema}-{one.removeprefix('#/$defs/')}" if name == "$ref" else _renamed(one, schema)
            for name, one in part.items()
        }
    return [_renamed(one, schema) for one in part] if isinstance(part, list) else part
