"""The axes of a sweep, each once: its key in a plan, and the field of a cell that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class SweepAxis:
    """`key` is its name in a plan and the name of its option's value; `field` is the field of a cell.

    `numbers` says that its values are numbers; `files` says that they name files, `perhaps` only where there is such a file.
    """

    key: str
    field: str
    numbers: bool = False
    files: bool = False
    perhaps: bool = False


AXES: tuple[SweepAxis, ...] = (
    SweepAxis("kernels", "kernel", files=True),
    SweepAxis("qemus", "qemu"),
    SweepAxis("machines", "machine"),
    SweepAxis("firmwares", "firmware", files=True, perhaps=True),
    SweepAxis("memory", "memory"),
    SweepAxis("cpus", "cpus", numbers=True),
    SweepAxis("cpu_models", "cpu"),
    SweepAxis("accelerators", "accel"),
    SweepAxis("initrds", "initrd", files=True),
    SweepAxis("command_lines", "append"),
    SweepAxis("revisions", "spec"),
    SweepAxis("goals", "goal"),
    SweepAxis("expectations", "expect", files=True),
    SweepAxis("mutations", "mutations"),
)
BY_KEY: Mapping[str, SweepAxis] = MappingProxyType({one.key: one for one in AXES})
