"""A probe's log as a subject: recognized by its content, and read piece by piece."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pvhdbg.decode.probe_log import decode, holds_line
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput, BadLog
from pvhdbg.model import Snapshot, Vmm
from pvhdbg.record import replace
from pvhdbg.spec.probe_format import LINE_LIMIT

if TYPE_CHECKING:
    from pvhdbg.model import Kernel

STANDARD_INPUT = "-"
_PIECE = 1 << 20


def holds_log(path: str) -> bool:
    """Whether a probe's line is anywhere in the file `path`."""
    rest = b""
    try:
        for piece in _pieces(path):
            if holds_line(rest + piece):
                return True
            rest = piece[-LINE_LIMIT:]
    except (OSError, ValueError):
        return False
    return False


def read_log(path: str, vmm: str | None = None, kernel: Kernel | None = None) -> tuple[Snapshot, list[SafeText]]:
    """The machine in the log at `path` (`-`: standard input), and warnings. Raises BadInput, BadLog.

    `vmm` is the VMM that the user named, "QEMU 7.2.22"; `kernel` is the file that the user named as booted.
    """
    try:
        log = decode(_pieces(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}", "give the log of a boot of probe.elf") from error
    except ValueError as error:
        raise BadInput(f"{path!r} is not a path: {error}", "give the log of a boot of probe.elf") from error
    except BadLog as error:
        raise BadLog(f"{'standard input' if path == STANDARD_INPUT else path}: {error.what}", error.todo) from error
    snapshot, warnings = log.snapshot, list(log.warnings)
    if vmm is not None:
        snapshot, said = _named(snapshot, vmm)
        warnings += said
    if kernel is not None:
        if snapshot.kernel is not None and (kernel.entry, kernel.loads) != (snapshot.kernel.entry, snapshot.kernel.loads):
            warnings.append(safe(f"{kernel.path} is not the probe that wrote this log: its entry or its segments differ"))
        snapshot = replace(snapshot, kernel=kernel)
    return snapshot, warnings


def named_vmm(words: str | None) -> Vmm:
    """The VMM that a user named: "Xen 4.17.7". Raises BadInput."""
    if words is None:
        return Vmm()
    name, _, version = words.strip().partition(" ")
    if not name:
        raise BadInput("--vmm names no VMM", 'write it like this: --vmm "QEMU 7.2.22"')
    return Vmm({"qemu": "QEMU", "xen": "Xen"}.get(name.lower(), name), version.strip() or None)


def _named(snapshot: Snapshot, vmm: str) -> tuple[Snapshot, list[SafeText]]:
    said, seen = named_vmm(vmm), snapshot.vmm
    warnings = []
    if seen.name is not None and seen.name != said.name:
        warnings.append(safe(f"--vmm says {said.name}, but CPUID names {seen.name}"))
    named = Vmm(said.name, said.version or seen.version, seen.accelerator)
    return replace(snapshot, vmm=named, sources={**snapshot.sources, "vmm": "--vmm"}), warnings


def _pieces(path: str) -> Iterator[bytes]:
    """The file piece by piece; the holes of a sparse file are skipped."""
    if path == STANDARD_INPUT:
        yield from _read(0)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Iterator[bytes]:
    at, sparse = 0, True
    while True:
        if sparse:
            try:
                data_at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                sparse = False  # a pipe, or a file system without SEEK_DATA
            else:
                if data_at != at:
                    yield b"\0"  # ends the line before a hole
                at = data_at
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return
        at += len(piece)
        yield piece
