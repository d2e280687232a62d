"""QEMU's last messages as errors with a next step. Pure: text in, error out."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import PluginRefused, VmmFailed

OLDEST = (4, 0)  # QEMU's commit ab969087da brought the PVH loader; released with 4.0
INSTALL = (
    "install it (Debian, Ubuntu: apt install qemu-system-x86; Fedora: dnf install qemu-system-x86-core), or name one with --qemu"
)

# A part of a message of QEMU 4.0 to 10.0 -> the next step. The first match counts, so messages about the kernel come first.
REMEDIES: tuple[tuple[str, str], ...] = (
    ("without PVH ELF Note", "the kernel has no PVH note that QEMU finds; 'readelf -nW' lists what it has (Linux: CONFIG_PVH=y)"),
    ("invalid kernel header", "this is neither an ELF file nor a Linux image; give the kernel as ELF, for Linux the file vmlinux"),
    ("Cannot load x86-64 image", "the kernel has a multiboot header, which QEMU prefers to PVH and refuses in ELF64; remove it"),
    ("Error while loading elf kernel", "the ELF file is cut short or for another machine; see 'readelf -hl'"),
    ("could not load kernel", "check the path of the kernel, and that it can be read and is not empty"),
    ("could not open kernel", "check the path of the kernel, and that it can be read"),
    ("error reading initrd", "check the path of the initrd, and that it can be read"),
    ("-kernel parameter is not supported", "choose a machine that boots kernels: pc, q35 or microvm"),
    ("unsupported machine type", "see 'qemu-system-x86_64 -machine help' for the machines of this QEMU"),
    ("CPU model", "see 'qemu-system-x86_64 -cpu help' for the processors of this QEMU"),
    ("KVM", "see who may open /dev/kvm (group kvm), or use --accel tcg"),
    ("initialize kvm", "see who may open /dev/kvm (group kvm), or use --accel tcg"),
    ("accelerator", "use --accel tcg"),
    ("cannot set up guest memory", "this much memory is not free here; ask for less with --memory"),
    ("'size'", "write the memory like 512M or 2G"),
    ("Invalid SMP", "ask for fewer processors with --cpus"),
    ("invalid option", "see what this QEMU takes: qemu-system-x86_64 -help"),
    ("not a valid device", "see 'qemu-system-x86_64 -device help' for the devices of this QEMU"),
    ("only available with -machine", "see 'qemu-system-x86_64 -machine help'"),
    ("lock", "another program uses that file"),
)
_PLUGIN = re.compile(r"-plugin|[Pp]lugin .*(API|load|error)|pvhdbg recorder:|load plugin")
_PLUGIN_PATH = re.compile(r"^(-plugin \S+: |Could not load plugin \S+: )")
_OTHER_QEMU = "name a QEMU with plugins, of a version from 7.2 to 11: --qemu BINARY"
DEFAULT_REMEDY = "run the same QEMU by hand to see more, or see the options after '--'"
LONGEST_MESSAGE = 300
FULL = 64 * 1024  # bytes: a folder with less room is full
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)


def ended_at_once(program: str, status: int, output: Sequence[str], *, plugin: bool = False) -> VmmFailed:
    """The error for a QEMU that ended before it answered. `status` as subprocess gives it: negative is a signal. With `plugin`, it was
    started with the flight recorder, and may have refused that.

    `output` is QEMU's own text by lines; it may quote file names, so it is escaped.
    """
    lines = [safe(line).strip() for line in output]
    lines = [line for line in lines if line]
    refusal = next((line for line in lines if plugin and _PLUGIN.search(line)), None)
    if refusal is not None:
        why = shorten(_PLUGIN_PATH.sub("", refusal.partition(": ")[2] or refusal), LONGEST_MESSAGE)
        return PluginRefused(f"{program} does not load the flight recorder: {why}", _OTHER_QEMU)
    remedy, said = _remedy(lines)
    if status == -signal.SIGFPE:
        remedy = "QEMU divides by a PT_NOTE's p_align: the kernel has one with p_align 0; link it with p_align 4"
    how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended at once with exit status {status}"
    what = f"{program} {how}: {shorten(said, LONGEST_MESSAGE)}" if said else f"{program} {how} without a message"
    return VmmFailed(what, remedy)


def killed(number: int, folder: str, free: int | None, output: Sequence[str]) -> VmmFailed:
    """The error for a QEMU that signal `number` ended while its machine ran: the guest has no part in that, as far as can be seen.

    `free` is how many bytes are free in `folder`, where QEMU's files are; None if that is unknown.
    """
    full = free is not None and free < FULL
    said = [line for line in map(str.strip, map(safe, output)) if line]
    what = f"QEMU was killed by {_signal_name(number)}" + (f": {shorten(said[-1], LONGEST_MESSAGE)}" if said else "")
    if full:
        what += f"; {safe(folder)} is full, where its files are"
    if number == signal.SIGBUS and full:  # the recording is mapped: a page of it that gets no room ends its writer
        todo = "make room there, or set TMPDIR to another folder (for trace, --no-recorder needs less room)"
    elif number == signal.SIGKILL:
        todo = "see whether the system ran out of memory ('dmesg' tells); if so, ask for less with --memory"
    elif number in _CRASHES:
        todo = "QEMU crashed: try another version of it (--qemu), or report it to QEMU's developers"
    else:
        todo = "see who sends signals to it, and run it again"
    return VmmFailed(what, todo)


def check_version(version: str) -> None:
    """Raises VmmFailed if `version` ("7.2.22 (Debian ...)") is of a QEMU that cannot load PVH kernels."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        raise VmmFailed(f"QEMU {safe(version)} cannot boot PVH kernels, which need 4.0 or newer", INSTALL)


def not_installed(program: str) -> VmmFailed:
    """The error for a program that is missing or not executable."""
    if "/" in program:
        return VmmFailed(f"{safe(program)} is not a program that can be run", "check the path given with --qemu")
    return VmmFailed(f"{safe(program)} is not installed", INSTALL)


def _remedy(lines: Sequence[str]) -> tuple[str, str]:
    """The next step, and the line that gives the reason; for an unknown message its last line that is not a warning."""
    for part, remedy in REMEDIES:
        for line in lines:
            if part in line and "warning:" not in line:
                return remedy, line
    telling = [line for line in lines if "warning:" not in line] or list(lines)
    return DEFAULT_REMEDY, telling[-1] if telling else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
