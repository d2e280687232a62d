"""What a SUBJECT is, told by itself: a kernel file, a gdbstub's address, a snapshot, a core, a probe's log; and which options fit.

A file's first bytes are read once. What only one kind needs to be told is imported when a file may be of that kind: a gdbstub's
address costs nothing.
"""

from __future__ import annotations

import os
import stat

from pvhdbg.commands.table import Request
from pvhdbg.errors import BadInput
from pvhdbg.targets.address import parse_address

_HEAD = 4096  # bytes of a file that tell what it is
_SNAPSHOT = b'"pvhdbg/snapshot/'
_SNAPSHOT_HEAD = 256  # bytes within which a snapshot says so
_CORES = (b"\x7fELF", b"KDUMP", b"makedumpfile")
_HDRS_AT = 0x202  # Documentation/arch/x86/boot.rst: "HdrS" in the setup header of a bzImage

QEMU_OPTIONS = ("append", "initrd", "machine", "memory", "cpus", "cpu", "accel", "qemu", "extra")
_VMM = (("vmm",), "it is for a probe's log, which does not tell")
_REFUSED = {
    "snapshot": (_VMM, (("kernel", "entry", "here", "reset", "leave", *QEMU_OPTIONS), "a snapshot is only read")),
    "core": (_VMM, (("entry", "reset", "leave", *QEMU_OPTIONS), "a core is only read")),
    "log": ((("entry", "here", "reset", "leave", *QEMU_OPTIONS), "a log is only read"),),
    "kernel": (_VMM, (("kernel", "reset"), "the subject is the kernel, and it is started afresh")),
    "stub": (_VMM, (QEMU_OPTIONS, "the machine at a gdbstub is already running; these are for a kernel file")),
}
_NOT_RUN = {
    "snapshot": ("a snapshot, which cannot be run", "judge it with: pvhdbg check {}"),
    "core": ("a core, which cannot be run", "judge it with: pvhdbg check {}"),
    "log": ("a probe's log, which cannot be run", "judge it with: pvhdbg probe {}"),
}


def kind_of(subject: str) -> str:
    """What a subject is: "snapshot", "core", "log", "kernel", or else the address of a "stub"."""
    try:
        mode = os.stat(subject).st_mode
    except (OSError, ValueError):
        # Something that looks like a path is meant as one: let its opener say that it is not there.
        return "kernel" if os.sep in subject and not subject.startswith("unix:") else "stub"
    if stat.S_ISSOCK(mode):
        return "stub"
    return _of_file(subject) if stat.S_ISREG(mode) else "kernel"


def _of_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return "kernel"  # its opener says why not
    first = head[:_SNAPSHOT_HEAD]
    if path.endswith(".pvhsnap") or (first.lstrip().startswith(b"{") and _SNAPSHOT in first):
        return "snapshot"
    if head.startswith(_CORES) and _is_core(head):
        return "core"
    return "log" if _may_be_log(head) and _holds_log(path) else "kernel"


def _is_core(head: bytes) -> bool:
    from pvhdbg.decode import core_file

    return core_file.is_core(head)


def _may_be_log(head: bytes) -> bool:
    from pvhdbg.decode import payload

    return payload.kind(head) in ("unknown", "zeros") and head[_HDRS_AT : _HDRS_AT + 4] != b"HdrS"


def _holds_log(path: str) -> bool:
    from pvhdbg.machine.probe_log import holds_log

    return holds_log(path)


def is_recording(subject: str) -> bool:
    """Whether the subject is a saved snapshot or a core: a machine that is only read."""
    return kind_of(subject) in ("snapshot", "core")


def is_kernel_file(subject: str) -> bool:
    """Whether the subject is a file that is booted."""
    return kind_of(subject) == "kernel"


# --- which options fit --------------------------------------------------------------------------------------------


def refused(subject: str) -> frozenset[str]:
    """The names of the options that a subject of this kind does not take."""
    return frozenset(name for names, _ in _REFUSED[kind_of(subject)] for name in names)


def refuse_options(request: Request, kind: str) -> None:
    """Raises BadInput for an option that a subject of this kind does not take."""
    for names, why in _REFUSED[kind]:
        for name in names:
            if request.values.get(name):
                option = "words after --" if name == "extra" else f"--{name}"
                raise BadInput(f"{option} cannot be used with {request.subject}: {why}", "leave it out")


def refuse_all_but_kernels(subject: str) -> None:
    """Raises BadInput for a subject that is no kernel file, with the command that takes it."""
    kind = kind_of(subject)
    if kind in _NOT_RUN:
        what, todo = _NOT_RUN[kind]
        raise BadInput(f"{subject} is {what}", todo.format(subject))
    if kind == "stub":
        raise BadInput(f"{parse_address(subject)} is a gdbstub, not a kernel file", f"use: pvhdbg attach {subject}")
