"""The user's options for a subject, for the QEMU that is started for it, and for reaching its entry: one frozen value each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pvhdbg.errors import BadInput
from pvhdbg.record import NamedTuple

if TYPE_CHECKING:
    from pvhdbg.spec.revisions import SpecName

Accelerator = Literal["tcg", "kvm", "auto"]
LeaveWord = Literal["running", "stopped", "killed"]
_LATEST: SpecName = "v1"


class LaunchOptions(NamedTuple):
    """The QEMU that is started for a kernel file; None is QEMU's own default, except 512M of memory
    and TCG. `no_recorder` starts it without the flight recorder; `deterministic` makes the instruction counter its clock; `serial` is a
    file for what COM1 wrote in the last boot. `extra` are further arguments for it."""

    append: str | None = None
    initrd: str | None = None
    machine: str | None = None
    memory: str | None = None
    cpus: int | None = None
    cpu: str | None = None
    accel: Accelerator | None = None
    qemu: str | None = None
    no_recorder: bool = False
    deterministic: bool = False
    serial: str | None = None
    extra: tuple[str, ...] = ()


class EntryOptions(NamedTuple):
    """How the entry is reached. `entry` is an address or a symbol; `timeout` in seconds; `here` decodes the current state;
    `nested` is the entry of a hypervisor's guest, by its VMCB."""

    here: bool = False
    kernel: str | None = None
    entry: str | None = None
    reset: bool = False
    leave: LeaveWord | None = None
    timeout: float = 30.0
    static_only: bool = False
    via: Literal["remote", "gdb"] | None = None
    nested: bool = False

    def seconds(self) -> float:
        """`timeout`. Raises BadInput for an invalid duration."""
        if not 0 < self.timeout < 1e6:
            raise BadInput(f"--timeout {self.timeout:g} is not a duration", "give a number of seconds greater than 0")
        return self.timeout


class SubjectOptions(NamedTuple):
    """A subject and how its entry is reached. `vmm` names the VMM of a probe's log; `spec` is None where not given."""

    subject: str = ""
    spec: SpecName | None = None
    vmm: str | None = None
    launch: LaunchOptions = LaunchOptions()
    way: EntryOptions = EntryOptions()

    @property
    def revision(self) -> SpecName:
        """The name of the revision to judge by."""
        return self.spec or _LATEST


class Given(NamedTuple):
    """An option that differs from its default: its name in the named tuple, and on the command line."""

    name: str
    words: str


_PARTS = ("launch", "way")


def given(options: SubjectOptions) -> tuple[Given, ...]:
    """The options of a subject that were given."""
    found = []
    for part in (options, options.launch, options.way):
        for name, value in zip(part._fields, part, strict=True):
            if name not in (*_PARTS, "subject") and value and value != part._field_defaults.get(name):
                found.append(Given(name, "words after --" if name == "extra" else f"--{name}"))
    return tuple(found)


def without(options: SubjectOptions, names: frozenset[str]) -> SubjectOptions:
    """The same with the options of these names at their defaults."""
    launch = options.launch._replace(**_defaults(options.launch, names))
    way = options.way._replace(**_defaults(options.way, names))
    return options._replace(**_defaults(options, names), launch=launch, way=way)


def _defaults(part: SubjectOptions | LaunchOptions | EntryOptions, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in part._field_defaults.items() if name in names}
