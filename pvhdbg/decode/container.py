"""What a kernel file is, apart from the ELF that it is or holds."""

from __future__ import annotations

from dataclasses import dataclass

from pvhdbg.spec.linux_boot import SetupHeader


@dataclass(frozen=True)
class Container:
    """The file itself. `compression` is None for an ELF that lies open; `setup` is there for a bzImage."""

    compression: str | None = None
    setup: SetupHeader | None = None
    efi: bool = False
    size: int = 0  # bytes
