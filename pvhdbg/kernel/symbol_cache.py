"""A cache of symbol files for GDB, made from the kallsyms of a stripped Linux: GDB reads symbols only from a file.

The files are in the user's cache (XDG base directory specification), named by the digest of the kernel; the newest few are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from contextlib import suppress
from itertools import starmap
from typing import TYPE_CHECKING

from pvhdbg.kernel.file_bytes import pieces
from pvhdbg.kernel.symbol_file import NamedSymbol, symbol_file
from pvhdbg.version import VERSION

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage

_KEPT = 8  # files of some MB each
_SUFFIX = ".symbols"
_ABANDONED = 3600.0  # seconds after which an incomplete file belongs to a process that was killed


def folder() -> str:
    """$XDG_CACHE_HOME/pvhdbg/symbols."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # the specification says to ignore others
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pvhdbg", "symbols")


def symbols_of(image: KernelImage) -> str:
    """The path of a file with the kernel's symbols, made now or before. Raises OSError if it cannot be written."""
    place = folder()
    os.makedirs(place, 0o700, exist_ok=True)
    need_own(place)
    path = os.path.join(place, f"{_identity(image)}-{VERSION}{_SUFFIX}")
    try:
        os.utime(path)
    except FileNotFoundError:
        _forget_old(place)
        partial = f"{path}.{os.getpid()}"
        try:
            with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
                loads = [(load.p_vaddr, load.p_memsz) for load in image.elf.loads]
                file.write(symbol_file(starmap(NamedSymbol, image.symbols().lettered()), loads, image.elf.bits))
            os.replace(partial, path)
        finally:
            _remove(partial)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise  # an existing file can be used even if the disk cannot be written to
    return path


def need_own(place: str) -> None:
    """Raise PermissionError if another user could place a file there, also where we are root."""
    for folder in (place, *_above(os.path.realpath(place))):
        about = os.stat(folder)
        mine = about.st_uid == os.geteuid() or (folder != place and about.st_uid == 0)
        # A group that owns a user's folders is usually his own; what lies in a sticky folder (/tmp) no other user can replace.
        others = stat.S_IWGRP | stat.S_IWOTH if folder == place else stat.S_IWOTH
        theirs = about.st_mode & others and not (folder != place and about.st_mode & stat.S_ISVTX)
        if theirs or not mine:
            raise PermissionError(errno.EPERM, f"others may write to {folder}")


def _above(place: str) -> list[str]:
    """The folders that a folder lies in, up to the root."""
    found = []
    while (folder := os.path.dirname(place)) != place:
        found.append(folder)
        place = folder
    return found


def _identity(image: KernelImage) -> str:
    """A digest of the file's bytes: two kernels may have the same build id."""
    digest = hashlib.sha256()
    for piece in pieces(image.data):
        digest.update(piece)
    return digest.hexdigest()[:32]


def _forget_old(place: str) -> None:
    """Remove the oldest files, so that there is room for one more."""
    found: list[tuple[float, str]] = []
    with os.scandir(place) as entries:
        for one in entries:
            with suppress(OSError):  # another process has removed it
                changed = one.stat().st_mtime
                if one.name.endswith(_SUFFIX):
                    found.append((changed, one.path))
                elif f"{_SUFFIX}." in one.name and changed < time.time() - _ABANDONED:
                    _remove(one.path)
    for _, path in sorted(found)[: 1 - _KEPT]:
        _remove(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # another process has removed it, or it was never made
        pass
