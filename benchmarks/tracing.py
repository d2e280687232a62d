"""The tracer compared with QEMU's own limit, a GDB stepping script, a bare socket, and a boot without a trace.

The traced code begins at start_kernel and has about 200 000 instructions, without long REPs and interrupts, so that it is the
same on every run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Row
from pvhdbg import guests
from pvhdbg.booted import launch as boot_guest
from pvhdbg.errors import GuestDied
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave, StopKind
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.block_coverage import Functions
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.death_watch import DeathWatch
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.explain import explain
from pvhdbg.vmm.qemu import QemuOptions, start

ROOT = Path(__file__).parents[1]
STRETCH = 200_000
GDB_STEPS, PYGDBMI_STEPS, STEPS = 1000, 15, 3000
BOOT = "panic=-1 quiet"
PIPELINE = 10_000_000

# What a user would write to see every instruction: stepi, and the registers that the log shows.
GDB_STEPPER = """
import gdb, time
gdb.execute("set pagination off"); gdb.execute("set architecture i386:x86-64"); gdb.execute("target remote {stub}")
gdb.execute("hbreak *{at:#x}"); gdb.execute("continue"); gdb.execute("delete")
names = {names!r}
began = time.perf_counter()
for _ in range({steps}):
    gdb.execute("stepi", to_string=True)
    frame = gdb.selected_frame()
    values = [int(gdb.parse_and_eval("$" + name)) for name in names]
print("rate", {steps} / (time.perf_counter() - began))
gdb.execute("disconnect")
"""
REGISTERS = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip", "eflags",
    "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "cr0", "cr2", "cr3", "cr4", "efer",
]  # fmt: skip
PYGDBMI_STEPPER = """
import sys, time
from pygdbmi.gdbcontroller import GdbController
stub, at, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
gdb = GdbController()
for line in ("set architecture i386:x86-64", "target remote " + stub, "hbreak *" + at, "continue"):
    gdb.write(line, timeout_sec=20, raise_error_on_timeout=False)
began = time.perf_counter()
for _ in range(steps):
    gdb.write("-exec-step-instruction", timeout_sec=5, raise_error_on_timeout=False)
print("rate", steps / (time.perf_counter() - began))
gdb.exit()
"""
PIPELINE_SCRIPT = """
import resource, sys
from pvhdbg.tracing.qemu_log import LogReader
reader, count = LogReader(states=False), 0
chunk = b"".join(b"Trace 0: 0x7fc638000100 [0000000000000000/%016x/0000c0b0/ff000201] name\\n" % (at * 4) for at in range(10_000))
while count < int(sys.argv[1]):
    for event in reader.feed(chunk):
        count += 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def rows(bench: Bench) -> Iterator[Row]:
    """The tracer's rows; none if the kernel has no start_kernel."""
    with open_kernel(str(bench.kernel)) as image:
        if "start_kernel" not in image.symbols().names("start_kernel"):
            return
        begin = image.symbols().virtual_address("start_kernel")
    end, count = stretch(bench, begin)
    for states, items, goal, name in (
        (True, "exec,cpu,nochain", 230, "all registers"),
        (False, "exec,nochain", 600, "pc and mode"),
    ):
        ours = partial(traced, bench, begin, end, count, states)
        both = bench.pair(ours, partial(raw, bench, begin, end, count, items), 3)
        yield Row(f"trace, {name} / QEMU's log to /dev/null", *both, ">= 0.8", lambda r: r >= 0.8, "events/s")
        both = bench.pair(ours, partial(gdb, bench, begin, REGISTERS if states else ["rip"]), 1)
        yield Row(f"trace, {name} / gdb-Python `stepi`", *both, f">= {goal}", partial(_least, goal), "events/s")
    both = bench.pair(partial(stepped, bench, begin), partial(bare, bench, begin), 3)
    yield Row("trace --engine step / a bare socket's `s` and `g`", *both, ">= 0.9", lambda r: r >= 0.9, "events/s")
    both = bench.pair(partial(stepped, bench, begin), partial(pygdbmi, bench, begin), 1)
    yield Row("trace --engine step / pygdbmi's defaults", *both, ">= 800", lambda r: r >= 800, "events/s")
    yield Row("whole boot under the fault log / alone", *bench.pair(partial(boot, bench, True), partial(boot, bench, False), 3), "<= 1.05",
              lambda r: r <= 1.05)  # fmt: skip
    yield Row("whole boot with --what calls / alone", *bench.pair(partial(calls, bench), partial(boot, bench, False), 3), "<= 2",
              lambda r: r <= 2)  # fmt: skip
    peak = float(
        subprocess.run(
            [sys.executable, "-c", PIPELINE_SCRIPT, str(PIPELINE)], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    )
    yield Row("peak memory of 10 M events through the reader", [], [], "<= 150 MB", lambda _: peak <= 150, note=f"{peak:.0f} MB")
    took = min(why(bench) for _ in range(3))
    yield Row(
        "`why`: from the entry of a boot that dies to its verdict", [], [], "<= 0.5 s", lambda _: took <= 0.5, note=f"{took:.2f} s"
    )
    told = max(wait_for_a_death(crash) for crash in ("wild-esp", "virtual-address", "endless-loop", "hlt"))
    yield Row("a wait: from a guest's last output to the report of its death, the slowest of four deaths", [], [], "<= 1 s",
              lambda _: told <= 1, note=f"{told:.2f} s")  # fmt: skip


def _least(goal: float, ratio: float) -> bool:
    return ratio >= goal


@contextmanager
def at(bench: Bench, address: int, cpu: str | None = None, append: str | None = None) -> Iterator[RemoteTarget]:
    """A new machine, stopped at a linear address."""
    with start(QemuOptions(kernel=bench.kernel, memory="512M", cpu=cpu, append=append)) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        try:
            run_until(target, [address], 60)
            yield target
        finally:
            target.close(Leave.KILLED)


def stretch(bench: Bench, begin: int) -> tuple[int, int]:
    """An address that is first reached at least STRETCH instructions after `begin`, and their exact number."""
    met: set[int] = set()
    with at(bench, begin) as target:
        for batch in LogEngine(target, states=False).batches(Bounds(seconds=60)):
            for index, pc in enumerate(batch.pcs):
                if pc not in met and batch.seq + index >= STRETCH:
                    return pc, batch.seq + index
                met.add(pc)
    raise SystemExit("the kernel does not run far enough after start_kernel")


def traced(bench: Bench, begin: int, end: int, count: int, states: bool) -> float:
    """Events a second, each a Python object."""
    with at(bench, begin) as target:
        began = time.perf_counter()
        seen = 0
        for batch in LogEngine(target, states=states).batches(Bounds(addresses=[end], seconds=60)):
            deque(batch, maxlen=0)
            seen += len(batch)
        took = time.perf_counter() - began
        assert seen == count, f"{seen} events, not {count}"
        return count / took


def raw(bench: Bench, begin: int, end: int, count: int, items: str) -> float:
    """The same events a second, written to /dev/null."""
    with at(bench, begin) as target:
        mode = "singlestep" if "unknown" not in target.monitor("help singlestep") else "one-insn-per-tb"
        target.set_breakpoint(end)
        began = time.perf_counter()
        for command in (f"{mode} on", "logfile /dev/null", f"log {items}"):
            target.monitor(command)
        target.resume()
        target.wait(60)
        target.monitor("log none")
        return count / (time.perf_counter() - began)


def gdb(bench: Bench, begin: int, names: list[str]) -> float:
    script = bench.folder / "stepper.py"
    with bench.machine() as qemu:
        script.write_text(GDB_STEPPER.format(stub=qemu.gdb_socket, at=begin, names=names, steps=GDB_STEPS))
        return _rate(["gdb", "-nx", "-batch", "-x", str(script)])


def pygdbmi(bench: Bench, begin: int) -> float:
    with bench.machine() as qemu:
        return _rate([sys.executable, "-c", PYGDBMI_STEPPER, qemu.gdb_socket, f"{begin:#x}", str(PYGDBMI_STEPS)])


def _rate(command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "rate " not in done.stdout:
        raise SystemExit(f"{command[0]} does not step: {done.stdout[-300:]}{done.stderr[-300:]}")
    return float(done.stdout.split("rate ")[1].split()[0])


def stepped(bench: Bench, begin: int) -> float:
    with at(bench, begin) as target:
        began = time.perf_counter()
        for batch in StepEngine(target).batches(Bounds(count=STEPS)):
            deque(batch, maxlen=0)
        return STEPS / (time.perf_counter() - began)


def bare(bench: Bench, begin: int) -> float:
    """Only the two packets of each step, on the same connection."""
    with at(bench, begin) as target:
        link = target._wire._socket
        began = time.perf_counter()
        for _ in range(STEPS):
            for packet in (b"$s#73", b"$g#67"):
                link.sendall(packet)
                data = b""
                while not (len(data) > 3 and data[-3:-2] == b"#"):
                    data += link.recv(1 << 16)
                link.sendall(b"+")
        return STEPS / (time.perf_counter() - began)


def boot(bench: Bench, tapped: bool) -> float:
    """Seconds from the entry to the reboot that ends the boot."""
    with at(bench, bench.entry, append=BOOT) as target:
        began = time.perf_counter()
        if not tapped:
            return _to_its_end(target, lambda: None, began)
        with LogSwitch(target, "int,cpu_reset", single=False) as switch:
            return _to_its_end(target, switch.rest, began)


def calls(bench: Bench) -> float:
    """The same, while each function's first call is found and named."""
    with open_kernel(str(bench.kernel)) as image, at(bench, bench.entry, append=BOOT) as target:
        functions = Functions(Names(image))
        began = time.perf_counter()
        engine = BlockCoverageEngine(target)
        found = sum(len(functions.feed(blocks)) for blocks in engine.blocks(Bounds()))
        assert engine.end.why.value == "shutdown", engine.end
        assert found > 1000, found
        return time.perf_counter() - began


def _to_its_end(target: RemoteTarget, meanwhile: Callable[[], object], began: float) -> float:
    from pvhdbg.errors import TargetTimeout

    target.resume()
    while True:
        meanwhile()
        try:
            stop = target.wait(0.005)
        except TargetTimeout:
            continue
        if stop.kind is not StopKind.SHUTDOWN:
            raise SystemExit(f"the boot ended with {stop}")
        return time.perf_counter() - began


def wait_for_a_death(crash: str) -> float:
    """Seconds from the last byte that `crashers` writes until a wait for another goal reports its death."""
    with boot_guest(guests.path("crashers"), append=f"crash={crash}", memory="64M") as guest:
        try:
            guest.serial.expect("never", timeout=20)
        except GuestDied:
            return time.time() - os.stat(guest.qemu.serial_log).st_mtime
    raise AssertionError(f"{crash} did not die")


def why(bench: Bench) -> float:
    """Seconds from the entry to the verdict on a boot that dies 23 instructions later."""
    with at(bench, bench.entry, cpu="qemu32") as target:
        began = time.perf_counter()
        around = Surroundings(read=target.read_memory)
        found = explain(DeathWatch(target, around).until_dead(20), around)
        assert found.cause == "no long mode", found
        return time.perf_counter() - began
