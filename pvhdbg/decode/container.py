"""The kernel file around its ELF: its path, size, compression and setup header."""

from __future__ import annotations

from pvhdbg.record import dataclass, field
from pvhdbg.spec.linux_boot import SetupHeader

HEAD_SIZE = 8192  # bytes: QEMU reads only these to choose a protocol


@dataclass(frozen=True)
class Container:
    """The file itself. `compression` is None for an uncompressed ELF; `setup` is set for a bzImage."""

    compression: str | None = None
    setup: SetupHeader | None = None
    efi: bool = False
    size: int = 0  # bytes
    head: bytes = field(repr=False, default=b"")  # its first HEAD_SIZE bytes, if it is not the ELF itself
