"""Whole sessions `--via gdb` with a GDB that lies: pvhdbg starts it as a process, and an honest stub is at the address.

The first byte of an input chooses the command; each of the others says of one answer of GDB whether, and how, it is wrong.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache

from fuzz.lying_gdb import LyingGdb, lying_gdb
from fuzz.lying_stub import LISTINGS, LyingStub, lying_stub
from fuzz.target import Output, Target
from fuzz.targets.sessions import session
from pvhdbg.rules.examples import at_entry

_COMMANDS = (
    ("check", "--here"),
    ("regs", "--here"),
    ("pagewalk", "0x100000", "--here"),
    ("trace", "--here", "--for", "0.1", "--until", "20", "--engine", "step"),
    ("why", "--here", "--batch", "--for", "0.1"),
    ("wait", "--here", "--until", "0x100000", "--for", "0.1"),
    ("repl", "--here", "--batch", "-ex", "regs", "-ex", "si 3", "-ex", "x/4xw 0x6000", "-ex", "print 1", "-ex", "monitor info roms"),
)  # fmt: skip


@cache
def _peers() -> tuple[LyingGdb, LyingStub]:
    stack = ExitStack()
    atexit.register(stack.close)
    snapshot = at_entry(rip=0x100000).snapshot()
    registers = {name: value for name in snapshot.registers if (value := snapshot.registers.get(name)) is not None}
    memory = {piece.address: piece.data for piece in snapshot.memory.pieces}
    return stack.enter_context(lying_gdb(registers, memory, LISTINGS)), stack.enter_context(lying_stub())


def _run(data: bytes) -> Iterator[Output]:
    gdb, stub = _peers()
    gdb.tell(data[1:])
    command, *options = _COMMANDS[data[0] % len(_COMMANDS) if data else 0]
    yield from session(command, stub.address, *options, "--via", "gdb", "--timeout", "0.3")


def _seeds() -> Iterator[bytes]:
    for command in range(len(_COMMANDS)):
        yield bytes([command]) + bytes(60)
        for at, lie in enumerate(range(192, 209)):
            yield bytes([command]) + bytes(3 * at) + bytes([lie]) + bytes(60)


TARGET = Target(_run, _seeds, tuple(bytes([lie]) for lie in range(192, 209)), sockets=True)
