"""The lines of a guest that say why it died, and what usually causes each. Pure.

Sources of Linux' words: kernel/panic.c, init/main.c, init/do_mounts.c, init/initramfs.c, kernel/reboot.c,
arch/x86/kernel/dumpstack.c, arch/x86/mm/fault.c, mm/oom_kill.c, arch/x86/kernel/apic/io_apic.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pvhdbg.tracing.addresses import Surroundings

_MOST = 10
_ECHO = "---[ end Kernel panic"  # says the panic again
_COMMAND_LINE = "ommand line: "  # Linux prints what it was handed
_CPIO = (b"070701", b"070702", b"\xc7\x71", b"070707")
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x5d\x00\x00", "lzma"), (b"\x89LZO", "lzo"),
               (b"\x02\x21\x4c\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd"))  # fmt: skip


class Told(NamedTuple):
    """A line of the guest that says something about its end, and what usually causes it; "" where nothing is usual."""

    line: str
    meaning: str = ""


Meaning = Callable[[re.Match[str], Surroundings], str]


def telling(lines: Iterable[str], around: Surroundings) -> tuple[Told, ...]:
    """The lines that say something about the end, in their order, each once: the last ones of many."""
    found: dict[str, Told] = {}
    for line in lines:
        if _ECHO in line or _COMMAND_LINE in line:
            continue
        for pattern, meaning in _PATTERNS:
            match = pattern.search(line)
            if match is not None:
                text = line.strip()
                found.setdefault(_STAMP.sub("", text), Told(text, meaning if isinstance(meaning, str) else meaning(match, around)))
                break
    return tuple(found.values())[-_MOST:]


def _no_root(_match: re.Match[str], around: Surroundings) -> str:
    line = around.command_line
    root = None if line is None else any(word.startswith("root=") for word in line.split())
    if around.initrd is not None and not around.initrd:
        if root is False:
            return "no root= on its command line, and no initrd: give one of them (--initrd, --append root=…)"
        return "no initrd: the driver of the root's disk must be in the kernel itself, and the disk in the machine"
    if around.initrd:
        unsound = _initrd_words(around.initrd) or ("" if not any(_UNPACKING in line for line in around.serial) else _DAMAGED)
        return unsound or "the initrd did not mount the root: its /init is missing, or it ended"
    return "the kernel found no root file system: its command line, an initrd or a driver is missing"


def _bad_initrd(_match: re.Match[str], around: Surroundings) -> str:
    return _initrd_words(around.initrd or b"") or _DAMAGED


def _initrd_words(data: bytes) -> str:
    if not data or data.startswith(_CPIO) or any(data.startswith(magic) for magic, _ in _COMPRESSED):
        return ""
    return f"the initrd is not a cpio archive: it begins with {data[:6].hex(' ')}"


def _killed_init(match: re.Match[str], _around: Surroundings) -> str:
    code = int(match[1], 16)
    how = f"by signal {code & 0x7F}" if code & 0x7F else f"with status {code >> 8 & 0xFF}"
    return f"the first program ({'init or /init'}) ended {how}: it must never end"


def _no_init(_match: re.Match[str], around: Surroundings) -> str:
    tried = [(found, why) for line in around.serial if (found := _NOT_EXECUTED.search(line)) and (why := _no_exec(found, around))]
    if not tried:
        return "no /init, /sbin/init or /bin/sh in the root file system, or none that this machine can run"
    found, why = tried[0]
    return f"{found[1]} could not be executed: {why}"


def _too_little(_match: re.Match[str], around: Surroundings) -> str:
    limits = [word for word in (around.command_line or "").split() if word.startswith("mem=")]
    return (
        f"too little memory: its command line limits it ({limits[-1]})"
        if limits
        else "too little memory: give the machine more (--memory)"
    )


def _no_exec(match: re.Match[str], _around: Surroundings) -> str:
    why = {
        "2": "it, or the interpreter that it names, is not there",
        "8": "its format is not one that this kernel runs (another machine, or no #!)",
        "13": "it is not executable",
        "12": "too little memory",
        "26": "the initrd is cut: it ends within this file",  # ETXTBSY: it is still open for writing (init/initramfs.c)
    }
    return why.get(match[2], "")


_UNPACKING = "Initramfs unpacking failed"
_DAMAGED = "the initrd is cut or damaged, or packed in a way that this kernel cannot unpack"
_NOT_EXECUTED = re.compile(r"Failed to execute (\S+) \(error -(\d+)\)")
_STAMP = re.compile(r"^(?:\[[ \d.]+\](?:\[\s*[TC]\d+\])? ?)")
_PATTERNS: tuple[tuple[re.Pattern[str], str | Meaning], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"not syncing: VFS: Unable to mount root", _no_root),
        (r"VFS: Cannot open root device", _no_root),
        (_UNPACKING, _bad_initrd),
        (r"not syncing: No working init found", _no_init),
        (r"not syncing: Attempted to kill init! exitcode=0x([0-9a-f]{1,8})", _killed_init),
        (_NOT_EXECUTED.pattern, _no_exec),
        (r"not syncing: (?:System is deadlocked on memory|Out of memory)", _too_little),
        (r"not syncing: IO-APIC \+ timer doesn't work", "the timer's interrupt does not come: see the machine's clocks (pit, hpet, -no-acpi), or boot with noapic"),
        (r"not syncing: .*(?:stack-protector|stack is corrupted)", "a function wrote behind its own stack frame"),
        (r"(?:stack guard page was hit|kernel stack overflow)", "the kernel's stack was full: a recursion, or a large frame"),
        (r"BUG: kernel NULL pointer dereference", "a null pointer"),
        (r"BUG: unable to handle (?:kernel |page fault)", "a pointer to memory that is not mapped, or not writable"),
        (r"kernel BUG at ", "the kernel stopped itself: an assertion of its own failed there"),
        (r"general protection fault", "often a pointer that is not an address, such as freed memory"),
        (r"Out of memory: Kill", _too_little),
        (r"^(?:\[[ \d.]+\](?:\[\s*[TC]\d+\])? ?)?(?:Oops|invalid opcode|double fault|divide error|stack segment)\b", ""),
        (r"Kernel panic - not syncing", ""),
        (r"\bRIP: [0-9a-f]{3}[048c]:", "the instruction that it died of"),
        (r"\bRIP: [0-9a-f]{3}[37bf]:", "where its program was in user mode: at a system call, or at a fault of its own"),
        (r"\breboot: (?:Restarting system|Power down|System halted)", "a program, or the kernel's own code, asked Linux for this"),
        (r"Waiting for root device", "the disk of root= was not there yet: with rootwait it waits without end"),
        (r"(?i)\b(?:assertion|assert)\b.*\bfail|\bassert(?:ion)?\s*[:(!]|\bpanic(?:ked)?\b(?! ?=|\+)|\bfatal\b(?! signal handling)|unhandled (?:exception|fault|trap|page fault)", ""),
        (r"Test result: (?:FAILURE|ERROR|CRASH)", "the test says that it failed"),
    )
)  # fmt: skip
