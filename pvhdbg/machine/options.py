"""What a user can say about a subject, the QEMU that is started for it, and the way to its entry: one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from pvhdbg.errors import BadInput

Accelerator = Literal["tcg", "kvm", "auto"]
LeaveWord = Literal["running", "stopped", "killed"]
SpecName = Literal["draft-a", "v0", "v1"]
_LATEST: SpecName = "v1"


@dataclass(frozen=True)
class LaunchOptions:
    """The QEMU that is started for a kernel file; None is QEMU's own default, but 512M of memory
    and TCG. `extra` are further words for it."""

    append: str | None = None
    initrd: str | None = None
    machine: str | None = None
    memory: str | None = None
    cpus: int | None = None
    cpu: str | None = None
    accel: Accelerator | None = None
    qemu: str | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class EntryOptions:
    """The way to the entry. `entry` is an address or a symbol; `timeout` in seconds; `here` decodes the machine as it stands."""

    here: bool = False
    kernel: str | None = None
    entry: str | None = None
    reset: bool = False
    leave: LeaveWord | None = None
    timeout: float = 30.0
    via: Literal["remote", "gdb"] | None = None

    def seconds(self) -> float:
        """`timeout`. Raises BadInput for what is not a time."""
        if not 0 < self.timeout < 1e6:
            raise BadInput(f"--timeout {self.timeout:g} is not a time", "give a number of seconds greater than 0")
        return self.timeout


@dataclass(frozen=True)
class SubjectOptions:
    """A subject and how it is brought to its entry. `vmm` names what a probe's log was made on; `spec` is None where not given."""

    subject: str = ""
    spec: SpecName | None = None
    vmm: str | None = None
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    way: EntryOptions = field(default_factory=EntryOptions)

    @property
    def revision(self) -> SpecName:
        """The name of the revision to judge by."""
        return self.spec or _LATEST


class Given(NamedTuple):
    """An option that differs from its default: its name in the dataclass, and as the command line has it."""

    name: str
    words: str


_PARTS = ("launch", "way")


def given(options: SubjectOptions) -> tuple[Given, ...]:
    """The options of a subject that were given."""
    found = []
    for part in (options, options.launch, options.way):
        for one in fields(part):
            value = getattr(part, one.name)
            if one.name not in (*_PARTS, "subject") and value and value != one.default:
                found.append(Given(one.name, "words after --" if one.name == "extra" else f"--{one.name}"))
    return tuple(found)


def without(options: SubjectOptions, names: frozenset[str]) -> SubjectOptions:
    """The same with the options of these names at their defaults."""
    return replace(
        options,
        **_defaults(options, names),
        launch=replace(options.launch, **_defaults(options.launch, names)),
        way=replace(options.way, **_defaults(options.way, names)),
    )


def _defaults(part: SubjectOptions | LaunchOptions | EntryOptions, names: frozenset[str]) -> dict[str, Any]:
    return {one.name: one.default for one in fields(part) if one.name in names}
