"""What a kernel file is, apart from the ELF that it is or holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvhdbg.spec.linux_boot import SetupHeader

HEAD_SIZE = 8192  # QEMU looks at no more, and passes so much on


@dataclass(frozen=True)
class Container:
    """The file itself. `compression` is None for an ELF that lies open; `setup` is there for a bzImage."""

    compression: str | None = None
    setup: SetupHeader | None = None
    efi: bool = False
    size: int = 0  # bytes
    head: bytes = field(repr=False, default=b"")  # its first HEAD_SIZE bytes, where it is not the ELF itself
