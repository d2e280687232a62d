"""Whole sessions with a stub that lies, over a real unix socket: the command line in this process, from its words to its exit code.

The first byte of an input chooses the command; each of the others says of one answer whether, and how, it is wrong.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO

from fuzz.lying_stub import LyingStub, lying_stub
from fuzz.target import Form, Output, Target
from pvhdbg.cli.program import main

_COMMANDS = (
    ("check", "--here"),
    ("trace", "--here", "--for", "0.1", "--until", "20", "--engine", "step"),
    ("why", "--here", "--batch", "--for", "0.1"),
    ("repl", "--here", "--batch", "-ex", "regs", "-ex", "si 3", "-ex", "x/4xw 0x6000", "-ex", "gdt", "-ex", "monitor info roms"),
    ("regs", "--here"),
    ("pagewalk", "0x100000", "--here"),
    ("wait", "--here", "--until", "0x200000", "--for", "0.1"),
)  # fmt: skip
_CODES = frozenset({0, 1, 2, 3, 4})


@cache
def _stub() -> LyingStub:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(lying_stub())


def _run(data: bytes) -> Iterator[Output]:
    stub = _stub()
    stub.script = data[1:]
    command, *options = _COMMANDS[data[0] % len(_COMMANDS) if data else 0]
    yield from session(command, stub.address, *options, "--timeout", "0.1")


def session(*words: str) -> Iterator[Output]:
    """What a command prints. Its exit code must be a documented one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    try:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main(list(words))
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
    assert code in _CODES, f"exit code {code}: {err.getvalue()}"
    assert "internal error" not in err.getvalue(), err.getvalue()
    yield Output(Form.TEXT, out.getvalue())
    yield Output(Form.TEXT, err.getvalue())


def _seeds() -> Iterator[bytes]:
    for command in range(len(_COMMANDS)):
        yield bytes([command]) + bytes(60)
        for at, lie in enumerate(range(192, 207)):
            yield bytes([command]) + bytes(3 * at) + bytes([lie]) + bytes(60)


TARGET = Target(_run, _seeds, tuple(bytes([lie]) for lie in range(192, 207)), sockets=True)
