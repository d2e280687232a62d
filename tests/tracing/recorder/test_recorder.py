"""The recorder in a real QEMU, held against the log engine, single steps and QEMU's own last state."""

import os
import random
import signal
import subprocess
import time
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from operator import mul
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.driver.recorded_machine import names_of
from pvhdbg.errors import TargetLost
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave, StopKind
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recorded_parts import DiscontinuityKind
from pvhdbg.tracing.recorder.file import open_recording
from pvhdbg.tracing.recorder.flags import FLAGS
from pvhdbg.tracing.recorder.library import library
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import RING
from pvhdbg.tracing.story import functions
from pvhdbg.tracing.symbol_text import base
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, RecorderOptions, start
from tests.support.cli_runner import eventually
from tests.support.debugged import EXIT_DEVICE, debugged

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]


def booted(
    kernel: Path,
    recorder: RecorderOptions,
    *,
    append: str | None = None,
    memory: str = "512M",
    extra: tuple[str, ...] = EXIT_DEVICE,
    cpus: int | None = None,
) -> AbstractContextManager[tuple[QemuProcess, RemoteTarget]]:
    """A kernel before its first instruction, with a recorder."""
    options = QemuOptions(kernel, append=append, memory=memory, extra=extra, cpus=cpus, recorder=recorder)
    return debugged(options)


def entry_of(kernel: Path) -> int:
    with open_kernel(str(kernel)) as image:
        entry = image.kernel().entry
    assert entry is not None
    return entry


def ended(qemu: QemuProcess) -> None:
    eventually(lambda: qemu.poll() is not None, "QEMU lives on")


def run_to_its_end(qemu: QemuProcess, target: RemoteTarget) -> None:
    target.resume()
    with suppress(TargetLost):  # QEMU may end before it answers
        target.wait(20)
    ended(qemu)


def blocks_by_log(kernel: Path, count: int) -> list[int]:
    """The pc of each of the first instructions by QEMU's own log, one instruction a block."""
    with start(QemuOptions(kernel)) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        run_until(target, [entry_of(kernel)], 20)
        pcs: list[int] = []
        for batch in LogEngine(target, states=False).batches(Bounds(count=count)):
            pcs += batch.pcs
        target.close(Leave.KILLED)
    return pcs


def test_every_block_and_number_agrees_with_the_log(vmlinux: Path) -> None:
    """Over 20 000 instructions from the entry of Debian's kernel, string instructions included; and it stops where it was asked to."""
    pcs = blocks_by_log(vmlinux, 20_000)
    recorder = RecorderOptions(library(), entry_of(vmlinux), exact=True, stop=19_990)
    with booted(vmlinux, recorder) as (qemu, target):
        target.resume()
        assert target.wait(30).kind is StopKind.INTERRUPT
        assert target.read_registers()["rip"] == pcs[19_990]
        with open_recording(qemu.recording) as recording:
            done = [run for run in recording.last(0) if run.number >= 0]
            assert recording.header.finished == 0
            first_executed = recording.first_executions()
    assert done[0].number == 0
    with open_kernel(str(vmlinux)) as image:
        loads = [(load.p_vaddr, load.p_memsz, load.p_paddr) for load in image.elf.loads]

    def physical(pc: int) -> int:
        return next((pc - start + paddr for start, size, paddr in loads if start <= pc < start + size), pc)

    assert [physical(pcs[run.number]) for run in done] == [run.block.physical for run in done]
    starts = {run.number for run in done}
    first: dict[int, int] = {}
    for run in done:
        first.setdefault(run.block.number, run.number)
    assert all(block.first == number for block, number in ((run.block, first[run.block.number]) for run in done))
    assert len(starts) == len(done) > 1000
    with open_kernel(str(vmlinux)) as image:
        name = names_of(image)
        ours = [one.name for one in functions(first_executed, name)]
    theirs = dict.fromkeys(base(text) for pc in pcs[:19_990] if (text := name(physical(pc))) is not None)
    assert ours == list(theirs)


def test_system_instructions_with_the_state_behind_them() -> None:
    """The mode switch of the guest long_mode: each instruction by its number, and what it changed."""
    kernel = guests.path("long_mode")
    with open_kernel(str(kernel)) as image:
        symbols = {
            name: image.symbols().physical_address(name) for name in ("enable_pae", "enable_lme", "far_jump", "in_long_mode")
        }
    recorder = RecorderOptions(library(), entry_of(kernel), exact=True, marks=(symbols["in_long_mode"], 0xDEAD0000))
    with booted(kernel, recorder, memory="64M") as (qemu, target):
        run_to_its_end(qemu, target)
        with open_recording(qemu.recording) as recording:
            systems, (reached, missed) = recording.systems(), recording.marks
            assert recording.header.finished == 1
            last = recording.states()[-1]
    assert missed.first == NEVER
    assert reached.pc == symbols["in_long_mode"]
    jump = next(one for one in systems if one.code[0] == 0xEA)
    assert jump.pc == symbols["far_jump"]
    assert reached.first == jump.number + 1
    by_code = {one.code: one.after for one in systems}
    pae = by_code[bytes.fromhex("0f22e0")]
    assert pae is not None
    assert decode(pae.text)["cr4"] & 0x20
    lme = by_code[bytes.fromhex("0f30")]
    assert lme is not None
    assert decode(lme.text)["efer"] & 0x100
    assert jump.after is not None
    assert decode(jump.after.text)["cs_flags"] >> 21 & 1
    assert last.pc is None
    assert decode(last.text)["efer"] & 0x400


def test_it_is_read_while_the_guest_runs_and_after_a_kill(vmlinux: Path) -> None:
    with booted(vmlinux, RecorderOptions(library(), entry_of(vmlinux)), append="console=ttyS0 panic=-1") as (qemu, target):
        target.resume()
        with open_recording(qemu.recording) as recording:
            eventually(lambda: recording.begun() > 5_000_000, "the guest does not get on")
            seen, reads = 0, 0
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                part = recording.last(0, 4096)
                reads += 1
                assert all(one.number <= other.number for one, other in pairwise(part))
                assert recording.begun() >= seen
                seen = recording.begun()
            assert reads > 10
            target.interrupt()
            tail, registers = recording.last(0, 1)[0], target.read_registers()
            os.kill(qemu.pid, signal.SIGKILL)
            ended(qemu)
            again = Recording.last(recording, 0, 1)[0]
            assert again == tail
            assert len(recording.first_executions()) > 1000
    assert registers["rip"] not in (0, NEVER)


@pytest.mark.parametrize("wanted", random.Random(7).sample(range(1, 4_000_000), 5))
def test_it_is_whole_whenever_qemu_is_killed(vmlinux: Path, wanted: int) -> None:
    """SIGKILL somewhere in a boot: every record that is read is complete."""
    recorder = RecorderOptions(library(), entry_of(vmlinux), exact=True, watch=(0x1000, 4096))
    with booted(vmlinux, recorder, append="console=ttyS0 panic=-1") as (qemu, target), open_recording(qemu.recording) as recording:
        target.resume()
        eventually(lambda: recording.cpu(0).head > wanted, "the guest does not get on", within=30)
        os.kill(qemu.pid, signal.SIGKILL)
        ended(qemu)
        last = recording.last(0)
        assert len(last) == min(recording.cpu(0).head, RING - 1)
        # The count begins again at the entry.
        same = [(one, other) for one, other in pairwise(last) if (one.number < 0) == (other.number < 0)]
        assert len(same) >= len(last) - 2
        assert all(0 <= other.number - one.number <= one.block.instructions for one, other in same)
        assert all(run.block.first is not None and run.block.runs and run.block.size for run in last)
        assert all(one.instructions for one in recording.blocks())
        assert all(one.code for one in recording.systems())
        assert all(b"EFER=" in state.text for state in recording.states())
        assert all(one.pc and one.size for one in recording.writes())


def test_every_instruction_of_each_cpu_is_counted(vmlinux: Path) -> None:
    """Two CPUs, of which the second one is started by Linux: each CPU's own count is the sum over the blocks that it executed."""
    recorder = RecorderOptions(library(), entry_of(vmlinux))
    with (
        booted(vmlinux, recorder, append="console=ttyS0 panic=-1", cpus=2) as (qemu, target),
        open_recording(qemu.recording) as recording,
    ):
        target.resume()
        eventually(lambda: any(one.block.linear >> 63 for one in recording.last(1, 1)), "Linux does not start it", within=60)
        target.interrupt()
        sizes = [one.instructions for one in recording.blocks()]
        for cpu, before in ((0, recording.header.base), (1, 0)):
            assert sum(map(mul, recording.counts(cpu), sizes)) == before + recording.cpu(cpu).count
        assert recording.header.entry_cpu == 0
        first_here = [one for one in recording.blocks() if one.cpu == 1 and one.first is not None]
        assert all(recording.counts(1)[one.number] for one in first_here)
        assert recording.last(1, 1)[0].block.linear > 0
        assert {one.cpu for one in recording.systems()} == {0, 1}
        took = recording.discontinuities(0)
        assert bool(took) == recording.tells_discontinuities
        assert all(one.kind in DiscontinuityKind and one.target for one in took)


def test_each_cpu_has_its_own_ring() -> None:
    """Two CPUs: only the first one runs the guest; the other waits in the firmware's or its own halt."""
    kernel = guests.path("hello")
    with booted(kernel, RecorderOptions(library(), entry_of(kernel)), memory="64M", cpus=2) as (qemu, target):
        run_to_its_end(qemu, target)
        with open_recording(qemu.recording) as recording:
            assert recording.cpus == 2
            assert recording.header.entry_cpu == 0
            assert recording.last(0, 1)[0].block.linear >= entry_of(kernel)
            other = recording.last(1, 1)
    assert not other or other[0].block.linear < entry_of(kernel) or other[0].block.linear > 0xF0000


@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "with a planted mistake"])
def test_the_sanitizers_find_no_mistake(tmp_path: Path, planted: bool) -> None:
    """Address and undefined-behaviour sanitizer over a whole boot, with marks, a watch, chapters and exact counts. They do find a planted one."""
    source = (Path(library.__code__.co_filename).parent / "recorder.c").read_text()
    if planted:
        source = source.replace("    header->finished = 1;", "    marks[mark_count + MARKS] = 1;\n    header->finished = 1;")
    made, file, kernel = tmp_path / "checked.so", tmp_path / "recording", guests.path("long_mode")
    words = [*FLAGS, "-O1", "-w", "-fsanitize=address,undefined", "-xc", "-", "-o", str(made)]
    subprocess.run(["gcc", *words], input=source.encode(), check=True)
    found = (
        subprocess.run(["gcc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
        for name in ("asan", "ubsan")
    )
    env = {**os.environ, "LD_PRELOAD": " ".join(one.stdout.strip() for one in found), "ASAN_OPTIONS": "detect_leaks=0"}
    recorder = RecorderOptions(
        str(made),
        entry_of(kernel),
        exact=True,
        marks=(entry_of(kernel),),
        watch=(0x106EE0, 8),
        chapters=(entry_of(kernel), 0x10006A),
    )
    command = ["qemu-system-x86_64", "-kernel", str(kernel), "-m", "64M", "-accel", "tcg", "-display", "none", "-nic", "none"]
    command += ["-serial", "null", "-monitor", "none", "-no-reboot", *EXIT_DEVICE, *recorder.arguments(str(file), False)]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    mistakes = [line for line in done.stderr.splitlines() if "ERROR: AddressSanitizer" in line or "runtime error:" in line]
    assert bool(mistakes) == planted, done.stderr
    if not planted:
        with open_recording(file) as recording:
            assert recording.header.finished == 1
            assert recording.writes()
            assert recording.counts_before(0)


def test_who_wrote_last_to_an_address() -> None:
    """The guest's page directories: before the store that is told, the memory is empty; after it, it is not."""
    kernel = guests.path("long_mode")
    with open_kernel(str(kernel)) as image:
        at = image.symbols().physical_address("directories") + 8 * 1500
    recorder = RecorderOptions(library(), entry_of(kernel), watch=(at, 8))
    with booted(kernel, recorder, memory="64M") as (qemu, target):
        run_to_its_end(qemu, target)
        with open_recording(qemu.recording) as recording:
            *_, last = recording.writes()
    held = []
    for number in (last.number, last.number + 1):
        with booted(kernel, RecorderOptions(library(), entry_of(kernel), stop=number), memory="64M") as (qemu, target):
            target.resume()
            assert target.wait(20).kind is StopKind.INTERRUPT
            held.append((target.read_registers()["rip"], any(target.read_memory(at, last.size))))
    assert held[0] == (last.pc, False)
    assert held[1][1]
