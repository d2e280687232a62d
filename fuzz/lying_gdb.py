"""A GDB that lies: a folder that is first on PATH, with a program `gdb` in it (fuzz.gdb_program), which pvhdbg starts as a real one."""

from __future__ import annotations

import marshal
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fuzz.gdb_program import MACHINE, SCRIPT

_START = "import sys; sys.path.insert(0, sys.argv[1]); from fuzz.gdb_program import main; main(sys.argv[2])"


class LyingGdb:
    """The program `gdb` in `folder`. `script` says of each answer what is wrong with it: a byte for each."""

    def __init__(
        self, folder: Path, registers: Mapping[str, int], memory: Mapping[int, bytes], listings: Mapping[str, str]
    ) -> None:
        self.folder = folder
        (folder / MACHINE).write_bytes(marshal.dumps((dict(registers), dict(memory), dict(listings))))
        program = folder / "gdb"
        words = [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parent.parent), str(folder)]
        program.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
        program.chmod(0o700)

    def tell(self, script: bytes) -> None:
        """How the next GDB that is started lies."""
        (self.folder / SCRIPT).write_bytes(script)


@contextmanager
def lying_gdb(registers: Mapping[str, int], memory: Mapping[int, bytes], listings: Mapping[str, str]) -> Iterator[LyingGdb]:
    """One, first on PATH. `memory` is by physical address; `listings` is what the monitor prints, by command."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as folder:
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield LyingGdb(Path(folder), registers, memory, listings)
        finally:
            os.environ["PATH"] = before
