"""pvhdbg beside what a user would pick instead, in one run: each row a ratio, pair by pair.

    python benchmarks/run.py [--kernel VMLINUX] [--pairs N] [--markdown FILE]

Whole processes are timed from outside, ours and theirs in turn, each on a fresh QEMU that waits at its reset vector and whose
start is not timed. The machine's speed drifts; the ratio of a pair does not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pvhdbg import guests
from pvhdbg.kernel_image import open_kernel
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, start

READ_SIZE = 16 << 20
HEAVY = ("pygdbmi", "elftools", "prompt_toolkit", "rich", "lz4", "zstandard", "capstone")
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
# The same with pygdbmi as its documentation uses it.
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
    """The kernel, the number of pairs, and the folder that everything is in."""

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


def rows(bench: Bench) -> Iterator[Row]:
    """The table's rows, as they are measured."""

    def against(
        ours: Callable[[str], list[str]], theirs: Callable[[str], list[str]], pairs: int | None = None
    ) -> tuple[list[float], list[float]]:
        return bench.pair(lambda: bench.on_a_machine(ours), lambda: bench.on_a_machine(theirs), pairs)

    yield Row("`check SOCKET` / bare gdb script", *against(bench.check, bench.bare_gdb), "<= 0.8", lambda r: r <= 0.8)
    yield Row("`check SOCKET` / pygdbmi's defaults", *against(bench.check, bench.pygdbmi, 3), "< 1", lambda r: r < 1)
    yield Row("`check --via gdb` / bare gdb script", *against(bench.check_via_gdb, bench.bare_gdb), "<= 1.6", lambda r: r <= 1.6)
    version, nothing = [str(PVHDBG), "--version"], [sys.executable, "-c", "pass"]
    yield Row(
        "`pvhdbg --version` / `python -c pass`",
        *bench.pair(lambda: bench.timed(version), lambda: bench.timed(nothing), 3 * bench.pairs),
        "<= 2.5",
        lambda r: r <= 2.5,
    )
    yield memory(bench)
    yield imports(bench)


def memory(bench: Bench) -> Row:
    """Physical memory in MB/s: ours against `dump memory`."""

    def ours() -> float:
        with bench.machine() as qemu:
            target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
            began = time.perf_counter()
            target.read_memory(0x1000000, READ_SIZE)
            took = time.perf_counter() - began
            target.close(Leave.KILLED)
            return READ_SIZE / took / 1e6

    def theirs() -> float:
        dump = bench.folder / "dump"
        script = bench.folder / "dump.gdb"
        with bench.machine() as qemu:
            lines = ["set pagination off", "set architecture i386:x86-64", f"target remote {qemu.gdb_socket}", "python import time"]
            lines += ["python t = time.perf_counter()", f"dump binary memory {dump} 0x1000000 {0x1000000 + READ_SIZE:#x}"]
            lines += ["python print('took', time.perf_counter() - t)", "disconnect"]
            script.write_text("\n".join(lines) + "\n")
            done = subprocess.run(["gdb", "-nx", "-batch", "-x", str(script)], capture_output=True, text=True, check=True)
        took = float(done.stdout.split("took ")[1].split()[0])
        return READ_SIZE / took / 1e6

    return Row("memory reads / gdb `dump memory`", *bench.pair(ours, theirs, 3), "> 1", lambda r: r > 1, "MB/s")


def imports(bench: Bench) -> Row:
    """Which heavy packages the `check SOCKET` path imports."""
    code = (
        "import sys\nfrom pvhdbg.frontends.cli import main\nmain(sys.argv[1:])\n"
        f"print(' '.join(m for m in {HEAVY!r} if m in sys.modules) or 'none', file=sys.stderr)"
    )
    with bench.machine() as qemu:
        done = subprocess.run([sys.executable, "-c", code, "check", qemu.gdb_socket], capture_output=True, text=True, check=True)
    found = done.stderr.strip().splitlines()[-1]
    return Row("heavy packages imported by `check SOCKET`", [], [], "none", lambda _: found == "none", note=found)


def versions() -> str:
    def first(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

    return f"{first('qemu-system-x86_64', '--version')}; {first('gdb', '--version')}; Python {sys.version.split()[0]}; {os.cpu_count()} CPUs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, help="the kernel to boot (default: the tests' Debian kernel, else the sample guest)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs for each row (default: 7)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    wanted = parser.parse_args()
    for program in ("qemu-system-x86_64", "gdb"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: make setup installs it")
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvhdbg" / "vmlinux"
    kernel = wanted.kernel or (cached if cached.exists() else guests.path("hello"))
    lines = [
        f"kernel {kernel.name}; {versions()}",
        "",
        "| what | ours | theirs | ratio, median (min to max) | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="pvhdbg-bench-") as folder:
        for row in rows(Bench(kernel, wanted.pairs, Path(folder))):
            lines.append(f"| {' | '.join(row.cells())} |")
            print(lines[-1], flush=True)
    if wanted.markdown:
        wanted.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
