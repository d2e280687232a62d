"""Private folders that were left behind, because pvhdbg and its guardian were killed: the next start removes them.

A folder is in use as long as a process holds its lock: pvhdbg, and each QEMU that works in it, which inherits the descriptor. The lock
ends with the last of them, however they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from itertools import islice

AGE = 60.0  # seconds: a folder that is younger may not be locked yet
_NAME = re.compile(r"pvhdbg-(?:[0-9a-f]{12}|[a-z0-9_]{8})")  # of a machine, and of a log's FIFO, which has a name for milliseconds
_LOOKED_AT = 20_000  # entries of a folder for temporary files


def held(folder: str) -> int:
    """A descriptor that marks the folder as in use until the last copy of it is closed. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file system without locks: then no other process gets one either, and the folder stays
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def sweep(place: str) -> None:
    """Remove the folders in `place` that are ours, private, old, and not in use. Never raises OSError."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in islice(entries, _LOOKED_AT):
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove(entry.path)


def _remove(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700 or time.time() - found.st_mtime < AGE:
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
