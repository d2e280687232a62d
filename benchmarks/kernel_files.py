"""Kernel files: `pvhdbg elf` compared with readelf and a pyelftools script, the symbol index with nm and pyelftools."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import PVHDBG, Bench, Row
from pvhdbg.kernel.image import open_kernel

SYMBOLS = 116_000  # as many as Debian's kernel has
# What a user would write: every note and segment, by pyelftools.
NOTES_SCRIPT = """
import sys
from elftools.elf.elffile import ELFFile
with open(sys.argv[1], "rb") as file:
    for segment in ELFFile(file).iter_segments():
        print(segment.header)
        if segment.header.p_type == "PT_NOTE":
            for note in segment.iter_notes():
                print(note)
"""
SYMBOLS_SCRIPT = """
import sys, time
from elftools.elf.elffile import ELFFile
with open(sys.argv[1], "rb") as file:
    began = time.perf_counter()
    index = {symbol.name: symbol.entry.st_value for symbol in ELFFile(file).get_section_by_name(".symtab").iter_symbols()}
    sorted(index.values())
    print(time.perf_counter() - began)
"""
PEAK_SCRIPT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def rows(bench: Bench) -> Iterator[Row]:
    """The rows for the bench's kernel, and for a file with 116 000 symbols that gas makes."""
    kernel = str(bench.kernel)
    script = bench.folder / "notes.py"
    script.write_text(NOTES_SCRIPT)
    elf = [str(PVHDBG), "elf", kernel]

    def readelf() -> float:
        return bench.timed(["readelf", "-nlW", kernel]) + bench.timed([sys.executable, "-c", "pass"])

    yield Row(
        "`elf` / `readelf -nlW` and `python -c pass`", *bench.pair(lambda: bench.timed(elf), readelf), "<= 1.0", lambda r: r <= 1.0
    )
    pyelftools = [sys.executable, str(script), kernel]
    both = bench.pair(lambda: bench.timed(elf), lambda: bench.timed(pyelftools))
    yield Row("`elf` / a pyelftools script", *both, "<= 1.5", lambda r: r <= 1.5)
    for debug in sorted(Path("/usr/lib/debug/boot").glob("vmlinux-*"))[:1]:  # package linux-image-…-dbg, 590 MB
        whole = functools.partial(bench.timed, [str(PVHDBG), "elf", str(debug)])
        both = bench.pair(whole, functools.partial(bench.timed, ["readelf", "-nlW", str(debug)]), 3)
        yield Row("`elf` on the kernel with all debug info / `readelf -nlW`", *both, "<= 1.0", lambda r: r <= 1.0)
    both = bench.pair(lambda: peak(elf), lambda: peak(pyelftools), 1)
    yield Row("peak memory of `elf` / of that script", *both, "<= 4", lambda r: r <= 4, "MB")
    big = symbols_file(bench)
    yield Row(
        "index of 116 000 symbols / `nm`",
        *bench.pair(lambda: index(big), lambda: bench.timed(["nm", str(big)])),
        "<= 1.0",
        lambda r: r <= 1.0,
    )
    both = bench.pair(lambda: index(big), lambda: by_pyelftools(bench, big), 3)
    yield Row("index of 116 000 symbols / pyelftools", *both, "<= 0.1", lambda r: r <= 0.1)


def peak(command: list[str]) -> float:
    """Peak memory of a command, in MB."""
    done = subprocess.run([sys.executable, "-c", PEAK_SCRIPT, *command], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def symbols_file(bench: Bench) -> Path:
    """An ELF with SYMBOLS symbols, each of one instruction."""
    source, result = bench.folder / "symbols.S", bench.folder / "symbols"
    if result.exists():
        return result
    lines = [".globl _start", "_start:", *(f"a_symbol_of_usual_length_{number}: nop" for number in range(SYMBOLS))]
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["as", str(source), "-o", f"{result}.o"], check=True)
    subprocess.run(["ld", f"{result}.o", "-o", str(result)], check=True)
    return result


def index(path: Path) -> float:
    """Seconds for the first queries of a session: a name, and the symbol nearest to an address (which sorts the table)."""
    began = time.perf_counter()
    with open_kernel(str(path)) as image:
        symbols = image.symbols()
        address = symbols.physical_address(f"a_symbol_of_usual_length_{SYMBOLS // 2}")
        found = symbols.nearest(address)
    took = time.perf_counter() - began
    if found != (f"a_symbol_of_usual_length_{SYMBOLS // 2}", 0):
        raise SystemExit(f"the index is wrong: {found}")
    return took


def by_pyelftools(bench: Bench, path: Path) -> float:
    script = bench.folder / "symbols.py"
    script.write_text(SYMBOLS_SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout)
