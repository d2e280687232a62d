"""Whether a kernel can write lines of its own into QEMU's log.

QEMU writes the name of a function at the end of each record, unescaped from .symtab (`lookup_symbol`; hw/core/loader.c reads the
table of -kernel's file). A name with a line end in it can forge a record, or a fault.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from pvhdbg.decode.elf import parse, symbol_table
from pvhdbg.errors import BadInput
from pvhdbg.kernel.file_bytes import FileBytes, pieces


def kernel_of(command: Sequence[str]) -> str | None:
    """The path of QEMU's last -kernel option; None without one."""
    return next((value for name, value in reversed([*pairwise(command)]) if name in ("-kernel", "--kernel")), None)


def forges(path: str) -> bool:
    """Whether the file is an ELF with such names. False for a file that cannot be read, or whose table is damaged."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(about.st_mode) and _has_line_ends(path, about.st_ino, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=8)  # the log is switched on often, and the names of a large kernel have 30 MB
def _has_line_ends(path: str, _inode: int, _changed: int, size: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        data = FileBytes(descriptor, path, size)
        table = symbol_table(data, parse(data))
        return table is not None and any(b"\n" in bytes(piece) for piece in pieces(data.part(table.strings, table.strings_size)))
    except BadInput:
        return False
    finally:
        os.close(descriptor)
