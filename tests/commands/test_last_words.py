"""The words of the dead: Linux' log buffer, what its lines mean, the call chain, and a panic that is found when it happens."""

import re
from pathlib import Path
from typing import Any

import pytest

import pvhdbg
from pvhdbg.decode.text import safe
from pvhdbg.disassembly import instruction_text
from pvhdbg.machine.names import Names
from pvhdbg.machine.surroundings import surroundings
from pvhdbg.report import why_text
from pvhdbg.report.style import PLAIN
from pvhdbg.report.trace_text import escaped
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.last_words import telling
from pvhdbg.tracing.unwinding import By
from tests.support.cli_runner import HELLO, Cli, Machine
from tests.support.small_kernels import assertive

HALT = "panic=-1 console=ttyS0"


@pytest.mark.boot
@pytest.mark.slow
def test_a_panic_is_stopped_at_and_told_with_its_calls(vmlinux: Path) -> None:
    """The kernel's own trace, on its serial port, names the same calls."""
    found = pvhdbg.why(str(vmlinux), append=HALT, seconds=60.0)
    assert (found.death.kind.value, found.explanation.cause) == ("panic", "panic")
    assert "VFS: Unable to mount root fs" in found.explanation.verdict
    assert "no root= on its command line, and no initrd" in found.explanation.verdict
    lines = list(found.serial)
    start = next(index for index, line in enumerate(lines) if re.search(r"\] +panic\+0x", line))
    theirs = [match[1] for line in lines[start + 1 :] if (match := re.search(r"\]  ([\w.]+\+0x[0-9a-f]+)/0x", line))]
    assert [call.name for call in found.calls][:1] == ["panic"]
    assert [call.name for call in found.calls][1 : 1 + len(theirs)] == theirs
    assert len(theirs) > 3
    assert all(call.by is By.ORC for call in found.calls[1:])
    assert found.ran[0].blocks > 1000
    # An interrupt may come right before the panic's first instruction.
    assert found.ran[0].functions[-1] in (theirs[0].partition("+")[0], "native_irq_return_iret")
    shown = why_text.render(
        found.death, found.explanation, escaped(found.names), instruction_text, (), (), PLAIN, found.told, found.calls, found.ran
    )
    assert "Kernel panic - not syncing" in " ".join(shown.split())
    for part in (
        "Its last words",
        "    usually: no root=",
        "The calls that led there (by the kernel's ORC tables)",
        "The last functions of CPU 0",
        "next:",
    ):
        assert part in shown


@pytest.mark.slow
def test_the_log_buffer_holds_what_the_serial_port_got(cli: Cli, machine: Any, vmlinux: Path) -> None:
    theirs: Machine = machine("-m", "512M", "-append", "console=ttyS0", kernel=str(vmlinux))
    cli("wait", theirs.socket, "--until", "mount_root", "--for", "60").ok()
    by_symbols = cli("dmesg", theirs.socket, "--here", "--kernel", vmlinux, "--format", "json").ok().json()["messages"]
    texts = {one["text"].replace("\\t", " ").strip() for one in by_symbols}
    lines = [re.sub(r"^\[ *[\d.]+\] ", "", line).replace("\t", " ").strip() for line in theirs.serial().splitlines()]
    assert len(lines) > 100
    assert [line for line in lines if line and line not in texts] == []
    assert all(one["seconds"] is not None and 0 <= one["level"] < 8 for one in by_symbols)


FRAME_POINTERS = ["-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables"]
TABLES = ["-fomit-frame-pointer", "-fasynchronous-unwind-tables"]


@pytest.mark.boot
@pytest.mark.parametrize(
    ("flags", "by"),
    [
        (FRAME_POINTERS, By.FRAME),
        (TABLES, By.CFI),
        (["-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-g"], By.CFI),  # .debug_frame
        (["-fomit-frame-pointer", "-fno-asynchronous-unwind-tables"], By.STACK),
    ],
    ids=["frame pointers", "eh_frame", "debug_frame", "nothing"],
)
def test_a_kernel_in_c_that_stops_itself(tmp_path: Path, flags: list[str], by: By) -> None:
    found = pvhdbg.why(str(assertive(tmp_path, 32, *flags)), seconds=25.0)
    assert found.death.kind.value == "halted"
    names = [(call.name or "").partition("+")[0] for call in found.calls]
    assert names[:4] == ["panic", "find_devices", "start_drivers", "kernel_main"]
    assert {call.by for call in found.calls[2:4]} == {by}
    if by is not By.STACK:
        assert "assertion failed: devices > 0" in found.calls[0].strings
    source = (Path(__file__).parents[1] / "support" / "assertive.c").read_text().splitlines()
    made = source.index("    assert(devices > 0);") + 1, source.index("    find_devices();") + 1
    lines = [None if call.line is None else call.line.rpartition("/")[2] for call in found.calls[1:3]]
    assert lines == ([f"assertive.c:{number}" for number in made] if "-g" in flags else [None, None])


@pytest.mark.parametrize(
    ("line", "about", "meaning"),
    [
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on x", {"command_line": "quiet", "initrd": b""}, "no root="),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on x", {"command_line": "root=/dev/vda", "initrd": b""}, "no initrd: the driver"),
        ("Initramfs unpacking failed: invalid magic at start of compressed archive", {"initrd": b"#!/bin/s"}, "begins with 23 21 2f 62 69 6e"),
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", {}, "ended with status 1"),
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b", {}, "by signal 11"),
        ("Kernel panic - not syncing: System is deadlocked on memory", {}, "too little memory"),
        ("Failed to execute /init (error -8)", {}, "not one that this kernel runs"),
        ("Failed to execute /init (error -26)", {}, "the initrd is cut"),
        ("Kernel panic - not syncing: System is deadlocked on memory", {"command_line": "quiet mem=8M"}, "limits it (mem=8M)"),
        ("Kernel panic - not syncing: No working init found.", {"serial": (safe("Failed to execute /init (error -8)"),)}, "/init could not be executed: its format"),
        ("Kernel panic - not syncing: No working init found.", {}, "no /init"),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on x", {"initrd": b"070701", "serial": (safe("Initramfs unpacking failed: read error"),)}, "cut or damaged"),
        ("RIP: 0033:0x401000", {}, "its program was in user mode"),
        ("reboot: Restarting system", {}, "asked Linux for this"),
        ("Waiting for root device /dev/vda...", {}, "it waits without end"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000010", {}, "a null pointer"),
        ("kernel BUG at mm/slub.c:4000!", {}, "stopped itself"),
        ("RIP: 0010:do_it+0x4/0x10", {}, "the instruction"),
        ("assertion failed: x > 0", {}, ""),
        ("Panic on CPU 0:", {}, ""),
    ],
)  # fmt: skip
def test_a_line_and_its_usual_cause(line: str, about: dict[str, Any], meaning: str) -> None:
    around = Surroundings(read=lambda _address, size: bytes(size), **about)
    (told,) = telling(["hello", f"[    1.000000] {line}"], around)
    assert line in told.line
    assert meaning in told.meaning


@pytest.mark.boot
def test_the_initrd_is_told_as_it_was_at_the_entry(tmp_path: Path) -> None:
    """Linux frees it, and the memory is used again: all that can be read there at the panic is 0xcc."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"070701" + bytes(1000))
    boot = pvhdbg.info(HELLO, initrd=str(initrd))
    around = surroundings(boot, None, lambda _address, size: b"\xcc" * size, Names(None))
    (told,) = telling(["Kernel panic - not syncing: VFS: Unable to mount root fs on x"], around)
    assert told.meaning == "the initrd did not mount the root: its /init is missing, or it ended"


@pytest.mark.parametrize(
    "line", ["Command line: panic=-1", " panic+0x118/0x2f4", "fatal signal handling is on", "x86/fpu: Supporting XSAVE"]
)
def test_a_line_that_says_nothing(line: str) -> None:
    assert telling([line], Surroundings(read=lambda _address, size: bytes(size))) == ()


@pytest.mark.boot
def test_a_kernel_whose_symbols_show_that_it_is_not_linux_is_not_searched(cli: Cli) -> None:
    ran = cli("dmesg", HELLO, "--memory", "1G")
    ran.complaint(3, "no log buffer of Linux")
    assert "searching" not in ran.err
