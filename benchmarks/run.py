"""Compare pvhdbg with alternatives in one run: each row is a ratio, measured in pairs.

    python -m benchmarks.run [--kernel VMLINUX] [--pairs N] [--only GROUP]... [--markdown FILE]

Whole processes are timed from outside, ours and theirs alternately, each on a new QEMU that waits at its reset vector and whose
start is not timed. The host's speed drifts; the ratio of a pair does not.
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
from itertools import chain
from pathlib import Path

from benchmarks import kernel_files, plugin, prompt, recorder, stress, tracing, travel
from benchmarks.bench import PVHDBG, Bench, Row
from pvhdbg import guests
from pvhdbg.decode import loaded_image, qemu_monitor
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.capture import compared
from pvhdbg.model import Backing
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave

READ_SIZE = 16 << 20
COMPARISON_GOAL = 20  # ms
LONGEST = 60.0  # seconds to the entry
HEAVY = ("pygdbmi", "elftools", "prompt_toolkit", "rich", "lz4", "zstandard", "iced_x86")


def rows(bench: Bench) -> Iterator[Row]:
    """The rows about a machine's entry, while they are measured."""

    def against(
        ours: Callable[[str], list[str]], theirs: Callable[[str], list[str]], pairs: int | None = None
    ) -> tuple[list[float], list[float]]:
        return bench.pair(lambda: bench.on_a_machine(ours), lambda: bench.on_a_machine(theirs), pairs)

    yield Row("`check SOCKET` / bare gdb script", *against(bench.check, bench.bare_gdb), "<= 0.9", lambda r: r <= 0.9)
    yield Row("`check SOCKET` / pygdbmi's defaults", *against(bench.check, bench.pygdbmi, 3), "< 1", lambda r: r < 1)
    yield Row("`check --via gdb` / bare gdb script", *against(bench.check_via_gdb, bench.bare_gdb), "<= 1.6", lambda r: r <= 1.6)
    version, nothing = [str(PVHDBG), "--version"], [sys.executable, "-c", "pass"]
    yield Row(
        "`pvhdbg --version` / `python -c pass`",
        *bench.pair(lambda: bench.timed(version), lambda: bench.timed(nothing), 3 * bench.pairs),
        "<= 1.8",
        lambda r: r <= 1.8,
    )
    yield memory(bench)
    yield comparison(bench)
    yield imports(bench)


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "machine": rows,
    "kernel-files": kernel_files.rows,
    "prompt": prompt.rows,
    "tracing": tracing.rows,
    "recorder": recorder.rows,
    "travel": travel.rows,
    "plugin": plugin.rows,
    "stress": stress.rows,
}


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


def comparison(bench: Bench) -> Row:
    """The kernel's file compared with memory at the entry, in ms: against bare reads of the same bytes."""

    def measured(work: Callable[[RemoteTarget, KernelImage, tuple[Backing, ...]], object]) -> float:
        with bench.machine() as qemu, open_kernel(str(bench.kernel)) as image:
            target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
            run_until(target, {bench.entry}, LONGEST)
            backing = tuple(qemu_monitor.physical_ranges(target.monitor("info mtree -f")))
            began = time.perf_counter()
            work(target, image, backing)
            took = time.perf_counter() - began
            target.close(Leave.KILLED)
            return 1000 * took

    def read(target: RemoteTarget, image: KernelImage, _: tuple[Backing, ...]) -> None:
        for sample in loaded_image.samples(image.elf):
            target.read_memory(sample.address, sample.size)

    ours, theirs = bench.pair(lambda: measured(compared), lambda: measured(read))
    return Row(
        "kernel file compared with memory / the same bytes read", ours, theirs, f"ours <= {COMPARISON_GOAL} ms",
        lambda _: statistics.median(ours) <= COMPARISON_GOAL, "ms",
    )  # fmt: skip


def imports(bench: Bench) -> Row:
    """Which heavy packages the `check SOCKET` path imports."""
    code = (
        "import sys\nfrom pvhdbg.cli.program import main\nmain(sys.argv[1:])\n"
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
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules are kept, as in an installation
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, help="the kernel to boot (default: the tests' Debian kernel, else the sample guest)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs for each row (default: 7)")
    parser.add_argument("--only", choices=GROUPS, action="append", help="the rows of this group, repeatable (default: all)")
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
        bench = Bench(kernel, wanted.pairs, Path(folder))
        for row in chain.from_iterable(GROUPS[name](bench) for name in wanted.only or GROUPS):
            lines.append(f"| {' | '.join(row.cells())} |")
            print(lines[-1], flush=True)
    if wanted.markdown:
        wanted.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
