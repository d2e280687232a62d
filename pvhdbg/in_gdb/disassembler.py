"""GDB's own disassembler for bytes that a trace kept, where GDB's Python has no iced-x86. Runs in GDB's own Python only.

`x/i` reads the machine's memory at the current mode; a traced instruction may be gone from there, and was executed in another mode. GDB 13
and newer give a disassembler written in Python the choice of the bytes (gdb.disassembler); GDB 12 does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import gdb

from pvhdbg import disassembly
from pvhdbg.decode.text import printable, shorten
from pvhdbg.targets.gdb_quiet import silence

Work = Callable[[], "disassembly.Instruction | None"]
Asker = Callable[[Work], "disassembly.Instruction | None"]
_LONGEST = 200  # characters of an instruction with the name of a symbol
_NAMES = {16: "i8086", 32: "i386", 64: "i386:x86-64"}


def install() -> None:
    """Disassemble by GDB from now on, where nothing else can."""
    if not disassembly.available() and find_spec("gdb.disassembler") is not None:
        disassembly.substitute(_GDB.first)


@contextmanager
def asked_through(call: Asker) -> Iterator[None]:
    """Meanwhile another thread disassembles: `call` does its work in GDB's thread, the only one that may use GDB."""
    _GDB.call = call
    try:
        yield
    finally:
        _GDB.call = _directly


def _directly(work: Work) -> disassembly.Instruction | None:
    return work()


class _ByGdb:
    def __init__(self) -> None:
        self.call: Asker = _directly
        self._architectures: dict[int, gdb.Architecture] = {}

    def first(self, code: bytes, address: int, bits: int) -> disassembly.Instruction | None:
        """See `disassembly.substitute`."""
        return self.call(lambda: self._first(code, address, bits))

    def _first(self, code: bytes, address: int, bits: int) -> disassembly.Instruction | None:
        from gdb.disassembler import register_disassembler

        try:
            if not self._architectures:
                self._architectures = _architectures()
            architecture = self._architectures[bits]
            # (types-gdb 12 is mistaken on gdb.disassembler.) What was registered before is the user's own.
            before = register_disassembler(_given(code), architecture.name())  # type: ignore[arg-type]
            try:
                (found,) = architecture.disassemble(address & (1 << 64) - 1, count=1)
            finally:
                register_disassembler(before, architecture.name())
        except gdb.error:
            return None
        size, text = found["length"], found["asm"]
        if text.startswith((".byte", "(bad)")) or size > len(code):
            return None
        return disassembly.Instruction(address, code[:size], shorten(printable(text), _LONGEST))


_GDB = _ByGdb()


def _given(code: bytes) -> gdb.disassembler.Disassembler:
    """GDB's disassembler, reading `code` in place of memory."""
    from gdb.disassembler import DisassembleInfo, Disassembler, DisassemblerResult, builtin_disassemble

    class Bytes(DisassembleInfo):
        def read_memory(self, length: int, offset: int = 0) -> bytes:
            if offset + length > len(code):
                raise gdb.MemoryError("the instruction is not complete")
            return code[offset : offset + length]

    class Given(Disassembler):
        def __call__(self, info: DisassembleInfo) -> DisassemblerResult | None:
            return builtin_disassemble(Bytes(info))  # type: ignore[func-returns-value]

    return Given("pvhdbg")


def _architectures() -> dict[int, gdb.Architecture]:
    """GDB's description of the CPU in each mode. GDB makes one only for an inferior: a second one, without a machine."""
    inferior, thread, chosen = gdb.selected_inferior(), gdb.selected_thread(), gdb.parameter("architecture")
    has_machine = bool(inferior.threads())
    frame = gdb.selected_frame().level() if has_machine else 0
    with silence():
        gdb.execute("add-inferior -no-connection", False, True)
        own = max(one.num for one in gdb.inferiors())
        try:
            gdb.execute(f"inferior {own}", False, True)
            return {bits: _set_architecture(name) for bits, name in _NAMES.items()}
        finally:
            gdb.execute(f"set architecture {chosen}", False, True)
            gdb.execute(f"inferior {inferior.num}", False, True)
            if has_machine:
                thread.switch()
                gdb.execute(f"frame level {frame}", False, True)
            gdb.execute(f"remove-inferiors {own}", False, True)


def _set_architecture(name: str) -> gdb.Architecture:
    gdb.execute(f"set architecture {name}", False, True)
    return gdb.selected_inferior().architecture()
