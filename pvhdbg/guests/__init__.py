"""The sample guests, built: small ELF kernels that boot by PVH. Their sources are in the folder `sample_guests`."""

from __future__ import annotations

from pathlib import Path

from pvhdbg.errors import BadInput

_HERE = Path(__file__).parent


def path(name: str) -> Path:
    """The ELF file of the sample guest `name` ("hello"). Raises BadInput if there is none of that name."""
    if name not in names():
        raise BadInput(f"there is no sample guest {name!r}", f"choose one of: {', '.join(names())}")
    return _HERE / f"{name}.elf"


def names() -> list[str]:
    """The sample guests there are, sorted."""
    return sorted(file.stem for file in _HERE.glob("*.elf"))
