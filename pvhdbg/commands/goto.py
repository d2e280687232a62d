"""`goto`: a machine stopped before an exact instruction of its boot, and who wrote to an address last before it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.decode import cpu_mode
from pvhdbg.decode.text import printable
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import RecordedMachine, recorded_machine, stopped_at
from pvhdbg.errors import BadInput, EntryNotReached
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.model import Registers
from pvhdbg.report.json_text import written
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.recording import MemoryWrite
from pvhdbg.vmm.options import RecorderOptions

_SHOWN = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_SYSTEM = ("eflags", "cr0", "cr2", "cr3", "cr4", "efer")
_COLUMNS = 4
_MOST_BYTES = 4096  # of a watched range


class GotoOptions(NamedTuple):
    """The options of `goto`. `place` is WHERE; `last_write` an address, with ":SIZE" behind it if it is not one byte."""

    place: str
    about: SubjectOptions = SubjectOptions()
    last_write: str | None = None
    seconds: float | None = None


class Position(NamedTuple):
    """Where the machine stands: before instruction `number` at `pc`."""

    number: int
    pc: int
    symbol: str | None
    mode: str
    registers: Registers
    writer: MemoryWrite | None
    writer_symbol: str | None


@takes(GotoOptions)
def goto(options: GotoOptions, context: Context) -> Answer:
    """`goto`: run the kernel again by the deterministic clock, and show the machine before the instruction that was named."""
    refuse_all_but_kernels(
        options.about.subject,
        "a machine goes back by running again from its reset: start it here, with: pvhdbg goto KERNEL WHERE",
    )
    watch = None if options.last_write is None else _range(options.last_write)
    number = _number(options, context.progress)
    writer = None
    if watch is not None:
        with stopped_at(options.about, number, context.progress, options.seconds, watch) as machine:
            writer = next(iter(reversed([one for one in machine.recording.writes() if 0 <= one.number < number])), None)
        if writer is None:
            raise EntryNotReached(
                f"nothing was stored to {watch[0]:#x} from the entry to instruction {number:,}",
                "the loader wrote it, or a device did",
            )
        number = writer.number + 1
    with stopped_at(options.about, number, context.progress, options.seconds) as machine:
        place = _place(machine, number, writer)
    return Answer(lambda _style: _text(place), lambda: written(_document(place)))


def _range(text: str) -> tuple[int, int]:
    """An address with a size in bytes. Raises BadInput."""
    address, _, size = text.partition(":")
    try:
        found = int(address, 0), int(size, 0) if size else 1
    except ValueError:
        raise BadInput(f"--last-write {text} is not an address", "give a physical address, as in 0x3000 or 0x3000:8") from None
    if not (0 <= found[0] < 1 << 64 and 0 < found[1] <= _MOST_BYTES):
        raise BadInput(f"--last-write {text} is too large", f"give an address below 2^64, and at most {_MOST_BYTES} bytes")
    return found


def _number(options: GotoOptions, progress: Progress) -> int:
    """The number of the instruction that WHERE names; the boot runs once to find that of a place. Raises BadInput, EntryNotReached."""
    text, _, times = options.place.partition("#")
    if text.replace(",", "").isdecimal() and not times:
        return int(text.replace(",", ""))
    if times and not (times.isdecimal() and int(times)):
        raise BadInput(f"{options.place} does not say which time", "count from 1: SYMBOL#2 is the second time")

    def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
        return replace(plain, exact=True, marks=addresses_of(text, names, "goto"), times=int(times or 1))

    with recorded_machine(options.about, told, progress, deterministic=True) as machine:
        end = machine.run(time_limit(options.seconds))
        if machine.marked is None:
            seen = sum(mark.seen for mark in machine.recording.marks)
            raise EntryNotReached(
                f"{options.place} was not reached: {end.words}, after {machine.begun:,} instructions; it was executed {seen:,} times",
                "see what was: pvhdbg boot",
            )
        return machine.marked.first


def _place(machine: RecordedMachine, number: int, writer: MemoryWrite | None) -> Position:
    registers = machine.target.read_registers()
    state = decode(machine.target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
    names = Names(machine.image)
    return Position(
        number,
        registers["rip"],
        names(registers["rip"]),
        cpu_mode.mode_of(state["cr0"], state["cr4"], state["efer"], state["cs_flags"], state["eflags"]).words,
        registers,
        writer,
        None if writer is None else names(writer.pc),
    )


def _text(place: Position) -> str:
    lines = []
    if place.writer is not None:
        one = place.writer
        where = f" {printable(place.writer_symbol)}" if place.writer_symbol else ""
        lines.append(f"the last store: {one.size} bytes to {one.address:#x} by instruction {one.number:,} at {one.pc:#x}{where}")
    symbol = f" {printable(place.symbol)}" if place.symbol else ""
    lines.append(f"before instruction {place.number:,} at {place.pc:#x}{symbol}, {place.mode}")
    for names in (_SHOWN, _SYSTEM):
        cells = [f"{name:>6} {value:016x}" for name in names if (value := place.registers.get(name)) is not None]
        lines += ["  ".join(cells[at : at + _COLUMNS]) for at in range(0, len(cells), _COLUMNS)]
    return "\n".join(lines) + "\n"


def _document(place: Position) -> dict[str, object]:
    one = place.writer
    return {
        "schema": "pvhdbg/goto/1",
        "number": place.number,
        "pc": hex(place.pc),
        "symbol": place.symbol,
        "mode": place.mode,
        "registers": {name: hex(value) for name in (*_SHOWN, *_SYSTEM) if (value := place.registers.get(name)) is not None},
        "last_write": None
        if one is None
        else {
            "number": one.number,
            "pc": hex(one.pc),
            "symbol": place.writer_symbol,
            "address": hex(one.address),
            "size": one.size,
        },
    }
