"""The options for starting QEMU, and the argument list made from them. No I/O, and never a shell.

The machine is that of a plain `qemu-system-x86_64 -kernel FILE`, because that machine's hand-off is judged.
Four things differ, none of which the guest finds in its start_info or registers (measured on QEMU
7.2, pc, q35 and microvm: the same structures, byte for byte):

- `-display none`: no window; and a QEMU without one would otherwise listen for VNC on TCP.
- `-nic none`: no user-mode network, so an unknown kernel does not reach the network through us. It also saves the
  15 ms that the network card's boot ROM takes. Any network option of the user switches this off.
- `-serial file:`: COM1 goes to a file, which never makes the guest wait for a reader.
- `-m 512M` instead of 128M: distribution kernels with an initrd do not fit in QEMU's default.

`-nodefaults` is not used: on q35 it changes the memory map.

When a guest shuts down, reboots or triple-faults, its machine stops and stays (`-no-reboot -no-shutdown`). QEMU 10 counts
isa-debug-exit as a shutdown, 7.2 exits at once; with `-action shutdown=poweroff` in `extra` both end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pvhdbg.errors import BadInput
from pvhdbg.record import dataclass
from pvhdbg.vmm.serial_copy import with_copy

DEFAULT_QEMU = "qemu-system-x86_64"
DEFAULT_MEMORY = "512M"
ACCELERATORS = ("tcg", "kvm", "auto")

# Options that conflict with pvhdbg's own, and the next step for each. Option names without the dashes.
REFUSED = {
    "gdb": "leave it out: pvhdbg holds QEMU's only debugger connection; or start QEMU yourself and attach to it",
    "s": "leave it out: pvhdbg holds QEMU's only debugger connection; or start QEMU yourself and attach to it",
    "daemonize": "leave it out: QEMU must stay a child of pvhdbg, which ends it",
    "kernel": "give the kernel as pvhdbg's own argument",
    "preconfig": "leave it out: with it QEMU waits for a command before it builds the machine",
}
NETWORK = frozenset({"nic", "net", "netdev"})


@dataclass(frozen=True)
class RecorderOptions:
    """The flight recorder (tracing/recorder) in a QEMU that is started, and its configuration.

    `library` is the plugin's path. Instructions are counted from the first execution at the linear address `entry`. `exact` counts
    each instruction, by `calls` where several CPUs run by a deterministic clock; `stop` ends the run before that instruction,
    which is not the entry; with `clock` each iteration of a REP counts for it. `marks` are linear or physical addresses whose
    first execution is noted, and the machine stops before one of `halts`, behind instruction `after` if it is given, or with
    `times` a later one. `watch` is a physical address and a size in bytes whose last stores are noted. With `flow` every executed
    block is kept, in a file for each CPU beside the recording; with `code` the code of each block, in the recording;
    with `chapters` the counts of all blocks where a chapter begins: at these addresses, 8 at most, and where the recorder itself tells
    one (the entry, an option ROM, 64-bit code, a program). Without `counts` it is not counted how often each block is executed, which
    costs less, unless one of `exact`, `flow` and `chapters` needs it.
    """

    library: str
    entry: int | None = None
    exact: bool = False
    calls: bool = False
    stop: int | None = None
    marks: tuple[int, ...] = ()
    halts: tuple[int, ...] = ()
    times: int = 1
    after: int | None = None
    clock: bool = False
    watch: tuple[int, int] | None = None
    flow: bool = False
    code: bool = False
    chapters: tuple[int, ...] | None = None
    counts: bool = True

    def arguments(self, recording: str, deterministic: bool) -> list[str]:
        """QEMU's arguments, with the file that is written to; `deterministic`: instructions are QEMU's clock."""
        words = [self.library, f"to={recording}"]
        words += [f"entry={self.entry:#x}"] if self.entry is not None else []
        words += ["exact=on"] if self.exact else []
        words += ["calls=on"] if self.calls else []
        words += ["icount=on"] if deterministic else []
        words += [f"stop={self.stop}"] if self.stop is not None else []
        words += [f"mark={address:#x}" for address in self.marks]
        words += [f"halt={address:#x}" for address in self.halts]
        words += [f"times={self.times}"] if self.times != 1 else []
        words += ["flow=on"] if self.flow else []
        words += ["code=on"] if self.code else []
        words += ["chapters=on", *(f"chapter={address:#x}" for address in self.chapters)] if self.chapters is not None else []
        words += [] if self.counts else ["counts=off"]
        words += [f"after={self.after}"] if self.after is not None else []
        words += ["clock=on"] if self.clock else []
        words += [f"watch={self.watch[0]:#x}", f"watch_size={self.watch[1]}"] if self.watch is not None else []
        return ["-plugin", ",".join(word.replace(",", ",,") for word in words)]


@dataclass(frozen=True)
class QemuOptions:
    """The guest and the machine to start. `None` means QEMU's own default, except `memory`: 512M.

    `accel` is "tcg", "kvm", or "auto" (KVM if QEMU can use it, else TCG). `extra` goes to QEMU unchanged, after
    everything else, so that it can override. `deterministic` makes the instruction counter QEMU's clock. `debugcon` adds port 0xe9, unless
    `extra` has one. `serial` is a file that holds what COM1 wrote in this boot, also where `extra` has a -serial of its own.
    """

    kernel: str | Path
    append: str | None = None
    initrd: str | Path | None = None
    machine: str | None = None
    memory: str | None = None
    cpus: int | None = None
    cpu: str | None = None
    accel: str = "tcg"
    qemu: str | None = None
    extra: tuple[str, ...] = ()
    recorder: RecorderOptions | None = None
    deterministic: bool = False
    debugcon: bool = False
    serial: str | Path | None = None


@dataclass(frozen=True)
class Sockets:
    """Paths in the private folder: two unix sockets that QEMU listens on, and the files of COM1, the recorder and port 0xe9."""

    gdb: str
    qmp: str
    serial: str
    recording: str = ""
    debugcon: str = ""


def command_line(options: QemuOptions, sockets: Sockets) -> list[str]:
    """QEMU's arguments, program first. Raises BadInput for an option of `extra` that pvhdbg needs for itself.

    -kernel, -initrd and -append are taken literally: QEMU looks for commas in -initrd only when it loads a multiboot
    kernel, and a leading dash in a value does not make it an option (both tried with 7.2 and 10.0).
    """
    given = option_names(options.extra)
    _refuse(options, given)
    argv = [options.qemu or DEFAULT_QEMU]
    argv += ["-kernel", os.fspath(options.kernel)]
    for name, value in (
        ("append", options.append),
        ("initrd", options.initrd and os.fspath(options.initrd)),
        ("machine", options.machine),
        ("cpu", options.cpu),
        ("smp", options.cpus and str(options.cpus)),
    ):
        if value is not None:
            argv += [f"-{name}", str(value)]
    if "m" not in given:
        argv += ["-m", options.memory or DEFAULT_MEMORY]
    if not names_accelerator(options.machine, options.extra):
        argv += _accelerator(options.accel)
    if not given & NETWORK:
        argv += ["-nic", "none"]
    if "serial" not in given:
        argv += ["-serial", f"file:{sockets.serial}"]  # takes the rest literally, commas too
    if options.debugcon and not any("debugcon" in word for word in options.extra):
        argv += ["-debugcon", f"file:{sockets.debugcon}"]
    argv += ["-display", "none", "-monitor", "none"]
    argv += ["-no-reboot", "-no-shutdown"]  # a triple fault stops the machine for a look at it (T03), instead of ending it
    argv += ["-S", "-gdb", _listen(sockets.gdb), "-qmp", _listen(sockets.qmp)]
    if options.deterministic:
        argv += _deterministic(options, given)
    if options.recorder is not None:
        argv += options.recorder.arguments(sockets.recording, options.deterministic)
    copied = "serial" in given and options.serial is not None
    argv += with_copy(list(options.extra), sockets.serial) if copied else options.extra
    if any("\0" in argument for argument in argv):
        raise BadInput("an argument for QEMU contains a zero byte", "remove it")
    return argv


def _refuse(options: QemuOptions, given: frozenset[str]) -> None:
    """Raises BadInput for options that no QEMU takes, and for those of `extra` that pvhdbg needs for itself."""
    for name, value in (("machine", options.machine), ("memory", options.memory), ("cpu", options.cpu), ("qemu", options.qemu)):
        if value == "":
            raise BadInput(f"--{name} is empty", "give it a value, or leave it out")
    if options.cpus is not None and options.cpus < 1:
        raise BadInput(f"--cpus {options.cpus} is not a number of CPUs", "give 1 or more")
    for name in sorted(given & REFUSED.keys()):
        raise BadInput(f"QEMU's option -{name} cannot be passed on", REFUSED[name])


# The clock counts instructions and jumps over idle time; the date is fixed. Two boots are then the same, instruction by instruction
# (measured on QEMU 7.2, 10.0 and 11.1; without `sleep=off` they are not, and other shifts cost more).
CLOCK = ("-icount", "shift=3,sleep=off", "-rtc", "base=2024-01-01,clock=vm")


# What answers by the host's clock, and not at an instruction of the guest. Option names without the dashes.
_DISKS = frozenset({"drive", "blockdev", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash", "virtfs"})
_TALKERS = frozenset({"serial", "parallel", "chardev", "monitor", "mon", "qmp", "debugcon"})
_SILENT = ("none", "null", "file")  # first words of the values with which those only write


def _deterministic(options: QemuOptions, given: frozenset[str]) -> list[str]:
    """The arguments of a deterministic clock. Raises BadInput where QEMU cannot have one."""
    if options.accel != "tcg" or names_accelerator(options.machine, options.extra):
        raise BadInput("KVM's clock is not deterministic", "leave out --accel: QEMU's own emulation counts instructions")
    for name in sorted(given & {"icount", "rtc"}):
        raise BadInput(f"QEMU's option -{name} cannot be passed on", "leave it out: the clock is set by pvhdbg")
    for name, value in zip(options.extra, (*options.extra[1:], ""), strict=False):
        word, kind = name.lstrip("-"), value.split(":")[0].split(",")[0]
        if not name.startswith("-"):
            continue
        if word in _DISKS:
            what, todo = "a disk answers by the host's clock", "leave it out, or put what the guest needs into its initrd"
        elif word in _TALKERS and kind not in _SILENT:
            what, todo = "input comes when somebody types it", "leave it out: file:PATH, null and none only write"
        elif word in NETWORK and kind != "none":
            what, todo = "packets come when the host sends them", "leave it out"
        else:
            continue
        raise BadInput(f"-{word} {value} is not deterministic: {what}", todo)
    return list(CLOCK)


def option_names(arguments: Sequence[str]) -> frozenset[str]:
    """The names of the options among QEMU `arguments`, without dashes. The value of -append is never one."""
    names = set()
    before = ""
    for argument in arguments:
        if argument.startswith("-") and before.lstrip("-") != "append":
            names.add(argument.removeprefix("-").removeprefix("-"))
        before = argument
    return frozenset(names)


def names_accelerator(machine: str | None, extra: Sequence[str]) -> bool:
    """QEMU refuses -accel next to -machine accel=, and takes a second -accel as a fallback, not as an override."""
    by_machine = any("accel=" in value for value in (machine or "", *extra))
    return by_machine or bool(option_names(extra) & {"accel", "enable-kvm"})


def _accelerator(accel: str) -> list[str]:
    if accel not in ACCELERATORS:
        raise BadInput(f"{accel!r} is not an accelerator", f"choose one of {', '.join(ACCELERATORS)}")
    return ["-accel", "kvm", "-accel", "tcg"] if accel == "auto" else ["-accel", accel]


def _listen(path: str) -> str:
    return f"unix:{path.replace(',', ',,')},server=on,wait=off"  # QEMU's lists are split at commas; a doubled one is a comma
