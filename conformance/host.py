"""Whether this host can give the guests their memory. The test does not touch the memory, so it uses none."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from pvhdbg.errors import BadInput, VmmFailed

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(memory: str) -> int:
    """`-m`'s size in bytes: "256M", "3G"; MiB without a unit. Raises BadInput."""
    number, unit = (memory[:-1], memory[-1].upper()) if memory[-1:].isalpha() else (memory, "M")
    if not (number.isascii() and number.isdigit() and int(number)) or unit not in _UNITS:
        raise BadInput(f"{memory!r} is not a memory size", "give a number with K, M or G, such as 256M")
    return int(number) * _UNITS[unit]


def room_for(memory: str, jobs: int) -> bool:
    """Whether `jobs` guests of that size fit at a time, tested with the same mmap as QEMU's."""
    size, held = size_of(memory), []
    try:
        for _ in range(jobs):
            held.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE))
    except (OSError, OverflowError):
        return False
    finally:
        for one in held:
            one.close()
    return True


def require(sizes: Iterable[str], jobs: int) -> None:
    """Raise VmmFailed for a size that this host does not provide, before anything is started."""
    for memory in sizes:
        if not room_for(memory, 1):
            todo = "leave that size out with --memory, or see ulimit -v and vm.overcommit_memory"
            raise VmmFailed(f"this host does not give a guest {memory} of memory", todo)
        if not room_for(memory, jobs):
            raise VmmFailed(f"this host does not give {jobs} guests {memory} of memory each at a time", "give a smaller -j")
