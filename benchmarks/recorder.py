"""The flight recorder against the same boot without it: a whole boot, `trace` to rest_init, `why`, and registers of each instruction."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pvhdbg
from benchmarks.bench import PVHDBG, Bench, Row
from planted import judge
from planted.deaths import CRASHERS, Planted
from pvhdbg import guests
from pvhdbg.driver.recorded_machine import names_of
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import RunEnd, run, run_until
from pvhdbg.targets.target import Leave
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.registers import RegisterEngine, open_recorder
from pvhdbg.tracing.flow import packed, read
from pvhdbg.tracing.recorder.file import open_bytes, open_recording
from pvhdbg.tracing.recorder.library import library
from pvhdbg.tracing.story import functions
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.qemu import QemuOptions, RecorderOptions, start

APPEND = "console=ttyS0 panic=-1"
PANICS = "console=ttyS0"
FAR = 100_000_000  # instructions


def rows(bench: Bench) -> Iterator[Row]:
    """The table's rows, while they are measured; a few pairs each, because a boot takes seconds."""
    if bench.kernel.name != "vmlinux":
        return
    plain = RecorderOptions(library(), bench.entry)
    alone = partial(boot, bench, None)
    yield Row(
        "whole boot with the recorder / alone, CPU time of QEMU",
        *bench.pair(partial(boot, bench, plain), alone, 3),
        "<= 1.5",
        lambda r: r <= 1.5,
    )
    exact = replace(plain, exact=True)
    yield Row(
        "whole boot with the exact recorder / alone, CPU time of QEMU",
        *bench.pair(partial(boot, bench, exact), alone, 3),
        "<= 1.9",
        lambda r: r <= 1.9,
    )
    flowing = replace(plain, flow=True)
    yield Row(
        "whole boot with every executed block kept / alone, CPU time of QEMU",
        *bench.pair(partial(boot, bench, flowing), alone, 3),
        "<= 2",
        lambda r: r <= 2,
    )
    window, saved_size = windowed(bench, flowing)
    yield Row(
        "a window of a million executed blocks rebuilt",
        [],
        [],
        "<= 1 s, <= 5 MB",
        lambda _: window <= 1 and saved_size <= 5,
        note=f"{window:.2f} s, {saved_size:.1f} MB for the whole boot",
    )
    yield Row(
        "`trace` to rest_init, every instruction counted / a bare run to it",
        *bench.pair(partial(traced, bench), partial(untraced, bench), 3),
        "<= 1.6",
        lambda r: r <= 1.6,
    )
    yield Row(
        "the same with QEMU's log, --no-recorder / a bare run to it",
        *bench.pair(partial(traced, bench, "--no-recorder"), partial(untraced, bench), 1),
        "beside it",
        lambda _: True,
    )
    yield Row(
        "`why` on a boot that panics for want of a root / the bare boot to the end of its panic",
        *bench.pair(partial(explained, bench), partial(panicked, bench), 3),
        "<= 1.6",
        lambda r: r <= 1.6,
    )
    late, which = max(
        (told_after(crash), crash) for crash in ("null-pointer", "stack-overflow", "nested-forever", "hlt", "endless-loop")
    )
    yield Row(
        "`why` on `crashers`: beyond a bare run of a third of a second, the slowest of five",
        [],
        [],
        "<= 0.5 s",
        lambda _: late <= 0.5,
        note=f"{late:.2f} s ({which})",
    )
    behind = {one.name: beyond_its_own(one) for one in CRASHERS}
    longest = max(behind, key=lambda name: behind[name])
    yield Row(
        f"`why` on each of {len(behind)} planted deaths: beyond the guest's own time, the slowest",
        [],
        [],
        "<= 5 s",
        lambda _: behind[longest] <= 5,
        note=f"{behind[longest]:.2f} s ({longest})",
    )
    rate = max(registers(bench, plain) for _ in range(3))
    yield Row(
        "registers of each of a million instructions from start_kernel on",
        [],
        [],
        ">= 1 M/s",
        lambda _: rate >= 1e6,
        note=f"{rate / 1e6:.2f} M/s",
    )
    took, size = analysed(bench, plain)
    yield Row(
        "first functions of a whole boot from its recording",
        [],
        [],
        "<= 1 s",
        lambda _: took <= 1,
        note=f"{took:.2f} s, {size:.1f} MB on disk",
    )
    peak = shown(bench)
    yield Row("peak memory of `boot show` of a whole boot", [], [], "<= 100 MB", lambda _: peak <= 100, note=f"{peak:.0f} MB")


def boot(bench: Bench, recorder: RecorderOptions | None) -> float:
    """CPU seconds that QEMU takes from its start to the panic's reboot: steadier than those of the clock on a busy machine."""
    with start(QemuOptions(bench.kernel, append=APPEND, recorder=recorder)) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        run(target, 120, may_vanish=True)
        user, system = Path(f"/proc/{qemu.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        target.close(Leave.KILLED)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def traced(bench: Bench, *words: str) -> float:
    """Seconds of the whole process."""
    return bench.timed([str(PVHDBG), "trace", str(bench.kernel), "--append", APPEND, *words])


UNTRACED = """
import sys
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave
from pvhdbg.vmm.qemu import QemuOptions, start
with start(QemuOptions(sys.argv[1], append=sys.argv[2])) as qemu:
    target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
    run_until(target, [int(sys.argv[3], 0)], 60)
    target.close(Leave.KILLED)
"""


def untraced(bench: Bench) -> float:
    """The same with one breakpoint and nothing that looks on."""
    with open_kernel(str(bench.kernel)) as image:
        goal = image.symbols().virtual_address("rest_init")
    return bench.timed([sys.executable, "-c", UNTRACED, str(bench.kernel), APPEND, hex(goal)])


def windowed(bench: Bench, recorder: RecorderOptions) -> tuple[float, float]:
    """The slowest of three: CPU seconds to rebuild a million blocks somewhere in a boot; and MB of all its blocks when they are saved."""
    with start(QemuOptions(bench.kernel, append=APPEND, recorder=recorder)) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        run(target, 120, may_vanish=True)
        with open_recording(qemu.recording) as recording, open_bytes(f"{qemu.recording}.flow0", "") as data:
            flow = read(data, recording.header.base)
            _, parts = packed(0, flow)
            took = []
            for share in (0.1, 0.5, 0.9):
                began = time.process_time()
                found = sum(1 for _ in islice(flow.since(int(recording.begun() * share), recording.blocks()), 1_000_000))
                took.append(time.process_time() - began)
                assert found == 1_000_000
        target.close(Leave.KILLED)
    return max(took), sum(map(len, parts)) / 1e6


def explained(bench: Bench) -> float:
    """Seconds of the whole process."""
    return bench.timed([str(PVHDBG), "why", str(bench.kernel), "--append", PANICS])


def panicked(bench: Bench) -> float:
    """Seconds from QEMU's start to the last line of the kernel's panic."""
    command = [DEFAULT_QEMU, "-kernel", str(bench.kernel), "-append", PANICS, "-m", "512M", "-cpu", "qemu64,-cx16", "-nic", "none",
               "-display", "none", "-serial", "stdio", "-monitor", "none"]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout is not None
        assert any(b"end Kernel panic" in line for line in qemu.stdout)
        took = time.perf_counter() - began
        qemu.kill()
    return took


def told_after(crash: str) -> float:
    """Seconds that `why` takes beyond a bare run, in which the guest died or hung at once: the better of two."""
    append = f"crash={crash}"

    def bare() -> float:
        began = time.perf_counter()
        with start(QemuOptions(guests.path("crashers"), append=append)) as qemu:
            target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
            run(target, 0.3, may_vanish=True)
            target.close(Leave.KILLED)
        return time.perf_counter() - began

    def ours() -> float:
        began = time.perf_counter()
        assert pvhdbg.why(str(guests.path("crashers")), append=append, seconds=20.0).died
        return time.perf_counter() - began

    return min(ours() - bare() for _ in range(2))


def beyond_its_own(one: Planted) -> float:
    """Seconds that `why` takes for a planted death beyond the guest's own time from its start to its end. A guest that hangs has none."""
    began = time.perf_counter()
    judge.of_crashers(one)
    took = time.perf_counter() - began
    machine = {name: value for name, value in one.options.items() if name in ("machine", "memory", "cpu", "cpus", "extra")}
    began = time.perf_counter()
    with start(QemuOptions(guests.path("crashers"), append=f"crash={one.name}", **machine)) as qemu:  # type: ignore[arg-type]
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        hangs = run(target, took, may_vanish=True).end is RunEnd.TIME
        own = time.perf_counter() - began
        target.close(Leave.KILLED)
    return took if hangs else took - own


def registers(bench: Bench, recorder: RecorderOptions) -> float:
    """Instructions a second."""
    with open_kernel(str(bench.kernel)) as image:
        goal = image.symbols().virtual_address("start_kernel")
    with start(QemuOptions(bench.kernel, append=APPEND, recorder=recorder)) as qemu, open_recorder(qemu.recording) as opened:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        for address in (bench.entry, goal):
            run_until(target, [address], 60)
        began = time.perf_counter()
        seen = sum(len(batch) for batch in RegisterEngine(target, opened).batches(Bounds(count=1_000_000, seconds=60)))
        took = time.perf_counter() - began
        target.close(Leave.KILLED)
    assert seen == 1_000_000
    return seen / took


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def shown(bench: Bench) -> float:
    """MB that `boot show` takes at most."""
    file = str(bench.folder / "boot.pvhboot")
    bench.timed([str(PVHDBG), "boot", str(bench.kernel), "--append", APPEND, "-o", file])
    command = [sys.executable, "-c", PEAK, str(PVHDBG), "boot", "show", file]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def analysed(bench: Bench, recorder: RecorderOptions) -> tuple[float, float]:
    """Seconds to name the functions of a whole boot in the order of their first execution, and MB of its recording."""
    with start(QemuOptions(bench.kernel, append=APPEND, recorder=recorder)) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        run(target, 120, may_vanish=True)
        with open_recording(qemu.recording) as recording, open_kernel(str(bench.kernel)) as image:
            began = time.perf_counter()
            found = functions(recording.first_executions(), names_of(image))
            took = time.perf_counter() - began
        size = os.stat(qemu.recording).st_blocks * 512 / 1e6
        target.close(Leave.KILLED)
    assert len(found) > 1000
    return took, size
