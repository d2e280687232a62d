"""Time travel at the prompt and in GDB: `back`, `reverse-continue`, `last-write`, `back-to-call`; `goto` is in `commands.goto`."""

from __future__ import annotations

import re

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.decode.text import printable
from pvhdbg.driver.travel import Travel, Wrote
from pvhdbg.errors import BadInput
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import instruction, position
from pvhdbg.model import EXTENDED, GENERAL, LOW_HALVES
from pvhdbg.record import NamedTuple
from pvhdbg.tracing.recorded_parts import MemoryWrite

_REGISTER = re.compile(r"\$(\w{2,4})", re.ASCII)
_SIZE = re.compile(r"(.*\S)\s*:\s*(\d{1,5})", re.ASCII)


class BackOptions(NamedTuple):
    """How many instructions."""

    steps: int = 1


class LastWriteOptions(NamedTuple):
    """The words of $REGISTER, or of an address with ":SIZE" behind it if it is not one byte."""

    what: tuple[str, ...] = ()


@takes(BackOptions)
def back(options: BackOptions, context: Context) -> Answer:
    """`back`: to the instruction that ran before, or several before."""
    session = _session(context)
    Travel(session, "back", context.progress).back(options.steps)
    return moved(session)


@takes(NoOptions)
def reverse_continue(options: NoOptions, context: Context) -> Answer:
    """`reverse-continue`: to the last hit of a breakpoint."""
    session = _session(context)
    _, hit = Travel(session, "reverse-continue", context.progress).reverse_continue()
    return moved(session, "the last hit of a breakpoint" if hit else "no breakpoint was hit before: this is the entry")


@takes(LastWriteOptions)
def last_write(options: LastWriteOptions, context: Context) -> Answer:
    """`last-write`: to the instruction behind the one that wrote a register, or memory."""
    session, what = _session(context), " ".join(options.what)
    travel = Travel(session, "last-write", context.progress)
    register = _REGISTER.fullmatch(what)
    if register is not None:
        name = LOW_HALVES.get(register[1], register[1])
        if name not in (*GENERAL, *EXTENDED):
            raise BadInput(f"{what} is not a general register", f"give one of those, or for memory there: last-write *{what}")
        wrote = travel.last_change(name)
        return moved(session, _told(session, wrote, f"the last change of {name}: instruction {wrote.number:,}"))
    sized = _SIZE.fullmatch(what)
    where, size = (sized[1], int(sized[2])) if sized is not None else (what, 1)
    wrote = travel.last_write(session.address(where.removeprefix("*")), size)
    assert wrote.store is not None
    return moved(session, stored(session, wrote.store) + _doubt(wrote))


@takes(NoOptions)
def back_to_call(options: NoOptions, context: Context) -> Answer:
    """`back-to-call`: to the call of the current function."""
    session = _session(context)
    Travel(session, "back-to-call", context.progress).back_to_call()
    return moved(session)


def moved(session: Session, first: str = "") -> Answer:
    """Where the machine stands now: the instruction's number, place and mode, and the instruction itself."""
    number = "" if session.number is None else f"before instruction {session.number:,}: "
    lines = [*([first] if first else []), f"{number}{', '.join(position(session))}", *instruction(session, named=False)]
    text = "".join(f"{line}\n" for line in lines)
    return Answer(lambda _: text)


def stored(session: Session, store: MemoryWrite) -> str:
    """A store and its instruction, as a sentence."""
    name = session.name_of(store.pc)
    return store_line(store, f"<{name}>" if name else None)


def store_line(store: MemoryWrite, symbol: str | None) -> str:
    where = f" {printable(symbol)}" if symbol else ""
    size = "1 byte" if store.size == 1 else f"{store.size} bytes"
    return f"the last store: {size} to {store.address:#x} by instruction {store.number:,} at {store.pc:#x}{where}"


def _told(session: Session, wrote: Wrote, what: str) -> str:
    name = session.name_of(wrote.pc)
    return f"{what} at {wrote.pc:#x}{f' <{printable(name)}>' if name else ''}{_doubt(wrote)}"


def _doubt(wrote: Wrote) -> str:
    return f"\n{wrote.doubt}" if wrote.doubt else ""


def _session(context: Context) -> Session:
    if context.session is None:
        raise BadInput("this goes back in a machine at the prompt or in GDB", "start one: pvhdbg repl KERNEL")
    return context.session
