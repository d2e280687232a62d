"""A cell: one combination of a sweep's axes, what is booted for it and how it is judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from typing import Any, get_args

from pvhdbg.commands.options import JudgeOptions
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import Accelerator, EntryOptions, LaunchOptions, SubjectOptions
from pvhdbg.spec.revisions import SpecName

ID_BYTES = 16
_SEPARATOR = "@"


@dataclass(frozen=True)
class AskedQemu:
    """A QEMU of the axis `qemus`: "PROGRAM" or "PROGRAM@VERSION". `version` is a prefix: "10.0" is also 10.0.13; empty is any."""

    program: str
    version: str = ""

    @classmethod
    def of(cls, text: str) -> AskedQemu:
        program, _, version = text.partition(_SEPARATOR)
        return cls(program, version)

    def fits(self, version: str) -> bool:
        """Whether a QEMU of this version is the one that was asked for."""
        return not self.version or version == self.version or version.startswith(f"{self.version}.")


@dataclass(frozen=True)
class SweepCell:
    """One combination. Files are named as the plan names them; an empty text and 0 are the default.

    `mutations` are ids of `pvhdbg stress`, joined by "+". `goal` is what `check --until` or `stress --until` takes.
    """

    kernel: str
    qemu: str = ""
    machine: str = ""
    firmware: str = ""
    memory: str = ""
    cpus: int = 0
    cpu: str = ""
    accel: str = ""
    initrd: str = ""
    append: str = ""
    spec: str = ""
    goal: str = ""
    expect: str = ""
    mutations: str = ""

    @cached_property
    def content(self) -> dict[str, Any]:
        """What differs from the default, by name."""
        return {name: value for name in FIELDS if (value := getattr(self, name))}

    @cached_property
    def id(self) -> bytes:
        """The identity: the same in every run, on every machine. 16 bytes of the SHA-256 of the content."""
        return sha256(json.dumps(self.content, sort_keys=True, separators=(",", ":")).encode()).digest()[:ID_BYTES]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> SweepCell:
        return cls(**content)

    @property
    def mutation_ids(self) -> tuple[str, ...]:
        """The mutations, by id."""
        return tuple(self.mutations.split("+")) if self.mutations else ()

    def __str__(self) -> str:
        return " ".join(
            [self.kernel.rsplit("/", 1)[-1], *(f"{name}={value}" for name, value in self.content.items() if name != "kernel")]
        )


FIELDS = tuple(one.name for one in fields(SweepCell))


@dataclass(frozen=True)
class CellBounds:
    """What one cell may use. `timeout` is for the entry, `goal_seconds` for the goal behind it, `seconds` for all of it.

    `memory` is the address space in bytes that each process of the cell may have beside the guest's own memory.
    """

    timeout: float = 30.0
    goal_seconds: float = 60.0
    seconds: float = 120.0
    memory: int = 4 << 30


@dataclass(frozen=True)
class CellTask:
    """A cell with everything that a process needs to boot it. `files` gives the path of each file that the cell names."""

    cell: SweepCell
    files: Mapping[str, str]
    bounds: CellBounds = field(default_factory=CellBounds)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    extra: tuple[str, ...] = ()
    reports: bool = True

    def document(self) -> dict[str, Any]:
        """The task as plain values."""
        return {
            "cell": self.cell.content,
            "files": dict(self.files),
            "bounds": dict(vars(self.bounds)),
            "judge": list(self.judge),
            "extra": list(self.extra),
            "reports": self.reports,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> CellTask:
        """The inverse of `document`."""
        strict, select, ignore = document["judge"]
        return cls(
            SweepCell.of(document["cell"]),
            document["files"],
            CellBounds(**document["bounds"]),
            JudgeOptions(strict, tuple(select), tuple(ignore)),
            tuple(document["extra"]),
            document["reports"],
        )

    def about(self) -> SubjectOptions:
        """The subject that is booted."""
        cell = self.cell
        extra = (*(("-bios", self.files.get(cell.firmware, cell.firmware)) if cell.firmware else ()), *self.extra)
        launch = LaunchOptions(
            append=cell.append or None,
            initrd=self.files[cell.initrd] if cell.initrd else None,
            machine=cell.machine or None,
            memory=cell.memory or None,
            cpus=cell.cpus or None,
            cpu=cell.cpu or None,
            accel=accelerator(cell.accel) if cell.accel else None,
            qemu=AskedQemu.of(cell.qemu).program or None,
            extra=extra,
        )
        spec = revision(cell.spec) if cell.spec else None
        return SubjectOptions(self.files[cell.kernel], spec, launch=launch, way=EntryOptions(timeout=self.bounds.timeout))


def accelerator(text: str) -> Accelerator:
    """Raises BadInput."""
    found: Accelerator = _choice(text, "an accelerator", get_args(Accelerator))
    return found


def revision(text: str) -> SpecName:
    """Raises BadInput."""
    found: SpecName = _choice(text, "a revision", get_args(SpecName))
    return found


def _choice(text: str, what: str, words: tuple[Any, ...]) -> Any:
    if text not in words:
        raise BadInput(f"{text!r} is not {what}", f"choose one of {', '.join(words)}")
    return text
