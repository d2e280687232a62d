"""`goto`: a machine stopped before an exact instruction of its boot, and who wrote to an address last before it."""

from __future__ import annotations

from contextlib import ExitStack

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.options import PromptOptions
from pvhdbg.commands.travel import moved, store_line, stored
from pvhdbg.decode import cpu_mode
from pvhdbg.decode.text import printable
from pvhdbg.driver.destination import AtNumber, arrived, destination, number_of
from pvhdbg.driver.recorded_machine import RecordedMachine, stopped_at
from pvhdbg.driver.travel import MOST_WATCHED, Travel, last_store
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.model import Registers
from pvhdbg.record import NamedTuple
from pvhdbg.report.json_text import written
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.recorded_parts import MemoryWrite

_SHOWN = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_SYSTEM = ("eflags", "cr0", "cr2", "cr3", "cr4", "efer")
_COLUMNS = 4


class GotoOptions(NamedTuple):
    """The options of `goto`. `place` is WHERE; `last_write` a physical address, with ":SIZE" behind it if it is not one byte."""

    place: str
    about: SubjectOptions = SubjectOptions()
    last_write: str | None = None
    seconds: float | None = None
    prompt: PromptOptions = PromptOptions()


class Position(NamedTuple):
    """Where the machine stands: before instruction `number` at `pc`. `clock` counts each iteration of a REP."""

    number: int
    clock: int
    pc: int
    symbol: str | None
    mode: str
    registers: Registers
    writer: MemoryWrite | None
    writer_symbol: str | None


@takes(GotoOptions)
def goto(options: GotoOptions, context: Context) -> Answer:
    """`goto`: run the kernel again by the deterministic clock, and show the machine before the instruction that was named."""
    wanted = destination(options.place)
    watch = None if options.last_write is None else _range(options.last_write)
    if context.session is not None:
        travel = Travel(context.session, "goto", context.progress, options.seconds)
        travel.goto(wanted)
        if watch is None:
            return moved(context.session)
        store = travel.last_store(*watch)
        travel.goto(AtNumber(store.number + 1))
        return moved(context.session, stored(context.session, store))
    refuse_all_but_kernels(
        options.about.subject,
        "a machine goes back by running again from its reset: start it here, with: pvhdbg goto KERNEL WHERE",
    )
    writer = None
    with ExitStack() as stack:
        image = stack.enter_context(open_kernel(options.about.subject))
        if watch is not None:
            number = number_of(options.about, wanted, context.progress, options.seconds, image=image)
            with stopped_at(options.about, number, context.progress, options.seconds, watch=watch, image=image) as machine:
                writer = last_store(machine.recording, number, watch[0])
            wanted = AtNumber(writer.number + 1)
        machine = stack.enter_context(arrived(options.about, wanted, context.progress, options.seconds, image=image))
        place = _place(machine, writer)
    return Answer(lambda _style: _text(place), lambda: written(_document(place)), value=place)


def _range(text: str) -> tuple[int, int]:
    """A physical address with a size in bytes. Raises BadInput."""
    address, _, size = text.partition(":")
    try:
        found = int(address, 0), int(size, 0) if size else 1
    except ValueError:
        raise BadInput(f"--last-write {text} is not an address", "give a physical address, as in 0x3000 or 0x3000:8") from None
    if not (0 <= found[0] < 1 << 64 and 0 < found[1] <= MOST_WATCHED):
        raise BadInput(f"--last-write {text} is too large", f"give an address below 2^64, and at most {MOST_WATCHED} bytes")
    return found


def _place(machine: RecordedMachine, writer: MemoryWrite | None) -> Position:
    registers = machine.target.read_registers()
    state = decode(machine.target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
    names = Names(machine.image)
    return Position(
        machine.begun,
        machine.recording.clock,
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
        lines.append(store_line(place.writer, place.writer_symbol))
    symbol = f" {printable(place.symbol)}" if place.symbol else ""
    lines.append(f"before instruction {place.number:,} (clock:{place.clock:,}) at {place.pc:#x}{symbol}, {place.mode}")
    for names in (_SHOWN, _SYSTEM):
        cells = [f"{name:>6} {value:016x}" for name in names if (value := place.registers.get(name)) is not None]
        lines += ["  ".join(cells[at : at + _COLUMNS]) for at in range(0, len(cells), _COLUMNS)]
    return "\n".join(lines) + "\n"


def _document(place: Position) -> dict[str, object]:
    one = place.writer
    return {
        "schema": "pvhdbg/goto/1",
        "number": place.number,
        "clock": place.clock,
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
