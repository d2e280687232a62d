"""The kind of a SUBJECT, recognized by its content: kernel file, gdbstub address, snapshot, core, probe's log; and its options.

A file's first bytes are read once. The recognizer of a kind is imported when a file may be of that kind: a gdbstub's address
costs nothing.
"""

from __future__ import annotations

import os
import stat
from enum import Enum

from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions, given
from pvhdbg.targets.address import parse_address

_HEAD = 4096  # bytes of a file that show its kind
_SNAPSHOT = b'"pvhdbg/snapshot/'
_SNAPSHOT_HEAD = 256  # bytes within which a snapshot is recognized
_CORES = (b"\x7fELF", b"KDUMP", b"makedumpfile")
_HDRS_AT = 0x202  # Documentation/arch/x86/boot.rst: "HdrS" in the setup header of a bzImage

_LAUNCH = ("append", "initrd", "machine", "memory", "cpus", "cpu", "accel", "qemu", "deterministic", "serial", "extra")


class SubjectKind(Enum):
    """The kind of a SUBJECT."""

    SNAPSHOT = "snapshot"
    CORE = "core"
    LOG = "log"
    KERNEL = "kernel"
    STUB = "stub"

    @property
    def runs(self) -> bool:
        """Whether it is a machine, or becomes one; else it is only read."""
        return self in (SubjectKind.KERNEL, SubjectKind.STUB)


_VMM = (("vmm",), "it is for a probe's log, which does not name its VMM")
_OUTER = "it is for a machine at a gdbstub in which a hypervisor runs"
_REFUSED = {
    SubjectKind.SNAPSHOT: (_VMM, (("kernel", "entry", "here", "reset", "leave", "nested", *_LAUNCH), "a snapshot is only read")),
    SubjectKind.CORE: (_VMM, (("entry", "reset", "leave", "nested", *_LAUNCH), "a core is only read")),
    SubjectKind.LOG: ((("entry", "here", "reset", "leave", "nested", *_LAUNCH), "a log is only read"),),
    SubjectKind.KERNEL: (_VMM, (("nested",), _OUTER), (("kernel", "reset"), "the subject is the kernel, and it is started afresh")),
    SubjectKind.STUB: (_VMM, (_LAUNCH, "the machine at a gdbstub is already running; these are for a kernel file")),
}
_NOT_RUN = {
    SubjectKind.SNAPSHOT: ("a snapshot, which cannot be run", "judge it with: pvhdbg check {}"),
    SubjectKind.CORE: ("a core, which cannot be run", "judge it with: pvhdbg check {}"),
    SubjectKind.LOG: ("a probe's log, which cannot be run", "judge it with: pvhdbg probe {}"),
}


def subject_kind(subject: str) -> SubjectKind:
    """The kind of a subject by its content; a word that is not a file is the address of a gdbstub."""
    try:
        mode = os.stat(subject).st_mode
    except (OSError, ValueError):
        # A word that looks like a path is meant as one: its opener reports that it does not exist.
        return SubjectKind.KERNEL if os.sep in subject and not subject.startswith("unix:") else SubjectKind.STUB
    if stat.S_ISSOCK(mode):
        return SubjectKind.STUB
    return _of_file(subject) if stat.S_ISREG(mode) else SubjectKind.KERNEL


def _of_file(path: str) -> SubjectKind:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return SubjectKind.KERNEL  # its opener reports the error
    first = head[:_SNAPSHOT_HEAD]
    if path.endswith(".pvhsnap") or (first.lstrip().startswith(b"{") and _SNAPSHOT in first):
        return SubjectKind.SNAPSHOT
    if head.startswith(_CORES) and _is_core(head):
        return SubjectKind.CORE
    return SubjectKind.LOG if _may_be_log(head) and _holds_log(path) else SubjectKind.KERNEL


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
    """Whether the subject is a saved snapshot or a core, which is only read."""
    return subject_kind(subject) in (SubjectKind.SNAPSHOT, SubjectKind.CORE)


def is_kernel_file(subject: str) -> bool:
    """Whether the subject is a file that is booted."""
    return subject_kind(subject) is SubjectKind.KERNEL


# --- which options fit --------------------------------------------------------------------------------------------


def refused(subject: str) -> frozenset[str]:
    """The names of the options that a subject of this kind does not take."""
    return frozenset(name for names, _ in _REFUSED[subject_kind(subject)] for name in names)


def refuse_options(options: SubjectOptions, kind: SubjectKind) -> None:
    """Raises BadInput for an option that a subject of this kind does not take."""
    words = {one.name: one.words for one in given(options)}
    if kind is SubjectKind.STUB and options.way.nested:
        words.pop("vmm", None)  # the hypervisor does not name its version
    for names, why in _REFUSED[kind]:
        for name in names:
            if name in words:
                raise BadInput(f"{words[name]} cannot be used with {options.subject}: {why}", "leave it out")


def refuse_all_but_kernels(subject: str, instead: str = "") -> None:
    """Raises BadInput for a subject that is not a kernel file; for a gdbstub with what to do `instead` of the attach."""
    kind = subject_kind(subject)
    if kind in _NOT_RUN:
        what, todo = _NOT_RUN[kind]
        raise BadInput(f"{subject} is {what}", todo.format(subject))
    if kind is SubjectKind.STUB:
        raise BadInput(f"{parse_address(subject)} is a gdbstub, not a kernel file", instead or f"use: pvhdbg attach {subject}")
