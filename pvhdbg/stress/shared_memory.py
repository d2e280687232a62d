"""The RAM of a QEMU that was started here, mapped into this process: a gdbstub would take minutes to fill it.

QEMU keeps it in a memfd (`-object memory-backend-memfd,share=on`), which its owner can open through /proc. Guest-physical addresses
below 2 GiB are offsets in it on pc, q35 and microvm (hw/i386/pc.c, microvm.c: `below_4g_mem_size` is at least that).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.errors import TargetError
from pvhdbg.vmm.options import DEFAULT_MEMORY

ID = "pvhdbg-ram"
IDENTICAL = 1 << 31  # below it, an address is an offset


def arguments(memory: str | None) -> tuple[str, ...]:
    """QEMU's arguments for such a RAM."""
    size = memory or DEFAULT_MEMORY
    return ("-object", f"memory-backend-memfd,id={ID},size={size},share=on", "-machine", f"memory-backend={ID}")


class SharedMemory:
    """The mapped RAM. Addresses are guest-physical, below `size`."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self.size = min(len(view), IDENTICAL)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of RAM. Raises TargetError for a range that is not mapped."""
        self._check(address, size)
        return self._view[address : address + size]

    def write(self, address: int, data: bytes) -> None:
        """Raises TargetError for a range that is not mapped."""
        self._check(address, len(data))
        self._view[address : address + len(data)] = data

    def _check(self, address: int, size: int) -> None:
        if address < 0 or address + size > self.size:
            raise TargetError(f"{address:#x} is outside of the mapped RAM", "give the guest less than 2 GiB of memory")


@contextmanager
def mapped(pid: int) -> Iterator[SharedMemory]:
    """The RAM of the QEMU with this pid, which was started with `arguments`. Raises TargetError."""
    path = _memfd(pid)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"QEMU's memory cannot be opened: {error.strerror}", "see whether /proc is mounted") from error
    try:
        with mmap.mmap(descriptor, 0) as view:
            yield SharedMemory(view)
    except (OSError, ValueError) as error:
        raise TargetError(f"QEMU's memory cannot be mapped: {error}", "see what limits this process") from error
    finally:
        os.close(descriptor)


def _memfd(pid: int) -> str:
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            if os.readlink(f"{folder}/{name}").startswith("/memfd:memory-backend-memfd"):
                return f"{folder}/{name}"
    except OSError as error:
        raise TargetError(f"QEMU's files cannot be listed: {error.strerror}", "see whether /proc is mounted") from error
    raise TargetError("this QEMU keeps its memory elsewhere than pvhdbg asked for", "leave memory options behind -- out")
