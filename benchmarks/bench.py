"""The parts of a benchmark: a row of the table, and the bench that runs commands and machines for it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pvhdbg.kernel.image import open_kernel
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, start

PVHDBG = Path(sys.executable).with_name("pvhdbg")

GDB_SCRIPT = """set pagination off
set confirm off
set architecture i386:x86-64
target remote {stub}
hbreak *{entry:#x}
continue
info registers
monitor info registers
monitor info mtree -f
monitor info roms
x/14xw $ebx
x/64xw *(unsigned int *)($ebx + 40)
x/s *(unsigned int *)($ebx + 24)
x/9xw *(unsigned int *)($ebx + 32)
disconnect
"""
# The same with pygdbmi, used as in its documentation.
PYGDBMI_SCRIPT = """
import sys
from pygdbmi.gdbcontroller import GdbController
gdb = GdbController()
for line in open(sys.argv[1]).read().splitlines():
    gdb.write(line, timeout_sec=20, raise_error_on_timeout=False)
gdb.exit()
"""


@dataclass(frozen=True)
class Row:
    """One line of the table. Figures are in `unit`; `ratios` are ours / theirs, pair by pair."""

    what: str
    ours: list[float]
    theirs: list[float]
    goal: str
    met: Callable[[float], bool]
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        return statistics.median(self._ratios())

    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def cells(self) -> list[str]:
        if not self.ours:
            return [self.what, "", "", self.note, self.goal, "yes" if self.met(0) else "NO"]
        low, high = min(self._ratios()), max(self._ratios())
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        shown = f"{self.ratio:.2f} ({low:.2f} to {high:.2f})"
        return [
            self.what,
            f"{ours:.3g} {self.unit}",
            f"{theirs:.3g} {self.unit}",
            shown,
            self.goal,
            "yes" if self.met(self.ratio) else "NO",
        ]


class Bench:
    """The kernel, the number of pairs, and the folder for all files."""

    def __init__(self, kernel: Path, pairs: int, folder: Path) -> None:
        self.kernel = kernel
        self.pairs = pairs
        self.folder = folder
        with open_kernel(str(kernel)) as image:
            entry = image.kernel().entry
        assert entry is not None, f"{kernel} has no PVH entry"
        self.entry = entry

    @contextmanager
    def machine(self) -> Iterator[QemuProcess]:
        with start(QemuOptions(kernel=self.kernel, memory="512M")) as qemu:
            yield qemu

    def timed(self, command: list[str], code: int = 0) -> float:
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
        took = time.perf_counter() - began
        if done.returncode != code:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode()[-1000:]}")
        return took

    def on_a_machine(self, command: Callable[[str], list[str]]) -> float:
        with self.machine() as qemu:
            return self.timed(command(qemu.gdb_socket))

    def script(self, stub: str) -> str:
        path = self.folder / "script.gdb"
        path.write_text(GDB_SCRIPT.format(stub=stub, entry=self.entry))
        return str(path)

    def check(self, stub: str) -> list[str]:
        return [str(PVHDBG), "check", stub]

    def check_via_gdb(self, stub: str) -> list[str]:
        return [str(PVHDBG), "check", stub, "--via", "gdb"]

    def bare_gdb(self, stub: str) -> list[str]:
        return ["gdb", "-nx", "-batch", "-x", self.script(stub)]

    def pygdbmi(self, stub: str) -> list[str]:
        program = self.folder / "with_pygdbmi.py"
        program.write_text(PYGDBMI_SCRIPT)
        return [sys.executable, str(program), self.script(stub)]

    def pair(
        self, ours: Callable[[], float], theirs: Callable[[], float], pairs: int | None = None
    ) -> tuple[list[float], list[float]]:
        ours(), theirs()  # caches
        rows = [(ours(), theirs()) for _ in range(pairs or self.pairs)]
        return [row[0] for row in rows], [row[1] for row in rows]
