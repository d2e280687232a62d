"""Symbol files for GDB, made of what a stripped Linux knows of itself, and kept: GDB wants a file, and wants it again tomorrow.

They lie in the user's cache (XDG base directory specification), under the digest of the kernel; the newest few are kept.
"""

from __future__ import annotations

import hashlib
import os
from itertools import starmap
from typing import TYPE_CHECKING

from pvhdbg.file_bytes import pieces
from pvhdbg.symbol_file import Named, symbol_file
from pvhdbg.version import VERSION

if TYPE_CHECKING:
    from pvhdbg.kernel_image import KernelImage

_KEPT = 8  # files of some MB each
_SUFFIX = ".symbols"


def folder() -> str:
    """$XDG_CACHE_HOME/pvhdbg/symbols."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # the specification says to ignore others
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pvhdbg", "symbols")


def symbols_of(image: KernelImage) -> str:
    """The path of a file with the kernel's symbols, made now or before. Raises OSError where it cannot be written."""
    place = folder()
    os.makedirs(place, 0o700, exist_ok=True)
    path = os.path.join(place, f"{_identity(image)}-{VERSION}{_SUFFIX}")
    try:
        os.utime(path)
    except FileNotFoundError:
        partial = f"{path}.{os.getpid()}"
        try:
            with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
                loads = [(load.p_vaddr, load.p_memsz) for load in image.elf.loads]
                file.write(symbol_file(starmap(Named, image.symbols().lettered()), loads, image.elf.bits))
            os.replace(partial, path)
        finally:
            _remove(partial)
        _forget_old(place)
    return path


def _identity(image: KernelImage) -> str:
    """The file's own bytes: build ids are claims, and two kernels may claim the same."""
    digest = hashlib.sha256()
    for piece in pieces(image.data):
        digest.update(piece)
    return digest.hexdigest()[:32]


def _forget_old(place: str) -> None:
    with os.scandir(place) as entries:
        files = sorted((one for one in entries if one.name.endswith(_SUFFIX)), key=lambda one: one.stat().st_mtime)
    for one in files[:-_KEPT]:
        _remove(one.path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # somebody else was faster, or it never came to be
        pass
