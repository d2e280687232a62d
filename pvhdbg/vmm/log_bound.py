"""Files that a QEMU writes to without end (COM1, its own messages) keep their newest part on disk: the rest becomes a hole.

A hole reads as zero bytes, and no file offset changes: QEMU continues to write at its offset, and a reader to read at its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pvhdbg.leaving import blocked

BOUND = 64 << 20  # bytes on disk of one file
KEPT = 16 << 20  # bytes that remain after a hole was made
_LOOK = 1.0  # seconds between two checks: a guest's serial port writes a few MB in one
_PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, of linux/falloc.h


class LogBound:
    """Bounds some files until `close`, in a thread of its own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        with blocked():
            self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK):
            for path in self._paths:
                with suppress(OSError):  # it does not exist yet, or no longer
                    give_back(path)

    def close(self) -> None:
        """Safe to call twice."""
        self._done.set()


def give_back(path: Path) -> None:
    """Free all but the newest part of a file that has grown over its bound: a hole takes its place. Raises OSError."""
    about = os.stat(path)
    if about.st_blocks * 512 <= BOUND:
        return
    import ctypes  # seldom needed, and slow to import

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        libc.fallocate(descriptor, _PUNCH, ctypes.c_int64(0), ctypes.c_int64(about.st_size - KEPT))
    finally:
        os.close(descriptor)
