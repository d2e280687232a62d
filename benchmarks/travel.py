"""Time travel: to an instruction, one back, to the last writer, and what parts two boots; beside QEMU's own record and replay."""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from benchmarks.bench import Bench, Row
from benchmarks.recorder import APPEND, FAR
from pvhdbg.commands.declare import options_of
from pvhdbg.driver.compared_boots import Booting
from pvhdbg.driver.recorded_machine import stopped_at
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.repl.conversation import Conversation
from pvhdbg.repl.options import ConversationOptions
from pvhdbg.tracing.story import parting
from pvhdbg.vmm.options import CLOCK, DEFAULT_QEMU

FURTHER = 1_000_000_000
TWINS = 20  # boots that must be the same
_PATIENCE = 60.0  # seconds for the recording, and for three reverse-stepi of QEMU's own


def rows(bench: Bench) -> Iterator[Row]:
    """The table's rows, while they are measured."""
    if bench.kernel.name != "vmlinux":
        return
    options = SubjectOptions(str(bench.kernel), launch=LaunchOptions(append=APPEND))
    yield took(f"from the start to before instruction {FAR:,}", partial(stopped, options, FAR), 1)
    yield took(f"from the start to before instruction {FURTHER:,}", partial(stopped, options, FURTHER), 4)
    yield from at_the_prompt(bench)
    address = open_kernel(options.subject).symbols().physical_address("boot_command_line")
    yield Row(
        f"who stored to an address last before instruction {FAR:,} / a run there",
        *bench.pair(partial(watched, options, address), partial(stopped, options, FAR), 3),
        "<= 2.2",
        lambda ratio: ratio <= 2.2,
    )
    same = sum(twins(options))
    yield Row(f"boots to rest_init that are the same, of {TWINS}", [], [], f"{TWINS}", lambda _: same == TWINS, note=f"{same}")
    yield took("`boot diff` of two whole boots, one with consol=ttyS0", partial(different, options), 10)
    yield Row("three `reverse-stepi` at rest_init by QEMU's record and replay", [], [], "none", lambda _: True, note=by_qemu(bench))


def took(title: str, work: Callable[[], float], most: float) -> Row:
    """A row of seconds, the median of three."""
    seconds = sorted(work() for _ in range(3))
    return Row(title, [], [], f"<= {most:g} s", lambda _: seconds[1] <= most, note=f"{seconds[1]:.2f} s")


def stopped(options: SubjectOptions, number: int) -> float:
    """Seconds in this process, QEMU's start included."""
    began = time.perf_counter()
    with stopped_at(options, number, lambda _: None, 60):
        return time.perf_counter() - began


def watched(options: SubjectOptions, address: int) -> float:
    """The same with a watch on a physical address that is stored to."""
    began = time.perf_counter()
    with stopped_at(options, FAR, lambda _: None, 60, watch=(address, 8)) as machine:
        assert machine.recording.writes()
        return time.perf_counter() - began


def at_the_prompt(bench: Bench) -> Iterator[Row]:
    """Seconds of lines at a prompt, from the line to its answer."""
    talk = Conversation("repl", options_of(ConversationOptions, {"subject": str(bench.kernel), "append": APPEND, "timeout": 60.0}))
    talk.open()

    def line(text: str) -> float:
        began = time.perf_counter()
        result = talk.run(text)
        assert not result.error, result.error
        return time.perf_counter() - began

    try:
        line(f"goto {FAR}")
        yield took(f"`back` at the prompt, at instruction {FAR:,}", partial(line, "back"), 1)
    finally:
        talk.close()


def twins(options: SubjectOptions) -> Iterator[bool]:
    """Whether a boot is the same as the first one, for each of them."""
    booting = Booting("rest_init", 60, lambda _: None)
    first = booting.boot(options).functions
    for _ in range(TWINS // 2):
        yield from (parting(first, side.functions).identical for side in booting.both(options, options))


def different(options: SubjectOptions) -> float:
    other = options._replace(launch=options.launch._replace(append=APPEND.replace("console", "consol")))
    began = time.perf_counter()
    a, b = Booting(None, 60, lambda _: None).both(options, other)
    assert parting(a.functions, b.functions).a[0].name == "param_setup_earlycon"
    return time.perf_counter() - began


# --- QEMU's own ---------------------------------------------------------------------------------------------------

GDB = """
set pagination off
python
import time
def step():
    began = time.perf_counter()
    gdb.execute("reverse-stepi", to_string=True)
    print(f"@ {time.perf_counter() - began:.2f}", flush=True)
end
target remote %s
hbreak *%#x
continue
python step()
python step()
python step()
"""


def by_qemu(bench: Bench) -> str:
    """Seconds of each reverse-stepi, up to the one that does not come back, the second or third one in many runs. Takes 2 * _PATIENCE at most."""
    disk, log, stub = bench.folder / "rr.qcow2", bench.folder / "rr.log", bench.folder / "rr.gdb"
    disk.write_bytes(empty_qcow2())
    clock = f"{CLOCK[1].split(',')[0]},rrfile={log},rrsnapshot=start"
    common = [DEFAULT_QEMU, "-kernel", str(bench.kernel), "-append", APPEND, "-m", "512M", "-nic", "none", "-display", "none",
              "-serial", "null", "-monitor", "none", "-no-reboot", "-drive", f"file={disk},if=none,id=rr"]  # fmt: skip
    with open_kernel(str(bench.kernel)) as image:
        goal = image.symbols().virtual_address("rest_init")
    try:
        recording = subprocess.run([*common, "-icount", f"{clock},rr=record"], capture_output=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"not recorded within {_PATIENCE:g} s"
    if recording.returncode:
        return f"not recorded: {recording.stderr.decode(errors='replace')[-80:]}"
    words = [*common, "-icount", f"{clock},rr=replay", "-S", "-gdb", f"unix:{stub},server=on,wait=off"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as replay:
        script = bench.folder / "rr.commands"
        script.write_text(GDB % (stub, goal))
        while not stub.exists() and replay.poll() is None:
            time.sleep(0.01)
        with subprocess.Popen(["gdb", "-nx", "-q", "-batch", "-x", str(script)], stdout=subprocess.PIPE, text=True) as gdb:
            with suppress(subprocess.TimeoutExpired):
                gdb.wait(_PATIENCE)
            gdb.send_signal(signal.SIGKILL)
            replay.kill()
            said = gdb.stdout.read() if gdb.stdout is not None else ""
    steps = re.findall(r"^@ ([\d.]+)$", said, re.MULTILINE)
    shown = ", ".join(f"{one} s" for one in steps)
    return shown if len(steps) == 3 else f"{shown or 'none'}; then none within {_PATIENCE:g} s in all"


def empty_qcow2(size: int = 1 << 30) -> bytes:
    """An empty disk in QEMU's own format (docs/interop/qcow2.txt), version 2: a header, a table and a block of refcounts, an L1 table."""
    cluster = 1 << 16
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, size, 0, 2, 3 * cluster, cluster, 1, 0, 0)
    parts = [header, struct.pack(">Q", 2 * cluster), struct.pack(">4H", 1, 1, 1, 1), b""]
    return b"".join(part.ljust(cluster, b"\0") for part in parts)
