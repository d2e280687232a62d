"""The keyword arguments of the public functions, typed, and their conversion to options.

A type checker reports a wrong name or value at the call; at run time a wrong name is a TypeError that names the nearest one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Union

from pvhdbg.commands.declare import options_of
from pvhdbg.machine.options import Accelerator, LeaveWord, SubjectOptions
from pvhdbg.spec.revisions import SpecName

Path = Union[str, "os.PathLike[str]"]


class LaunchArguments(TypedDict, total=False):
    """The QEMU that is started for a kernel. `memory` is MiB as a number, or "2G"; `deterministic` makes the instruction counter its
    clock; `serial` is a file for what COM1 wrote; `extra` are further words for QEMU."""

    append: str | None
    initrd: Path | None
    machine: str | None
    memory: str | int | None
    cpus: int | None
    cpu: str | None
    accel: Accelerator
    qemu: str | None
    deterministic: bool
    serial: Path | None
    extra: Sequence[str]


class EntryArguments(TypedDict, total=False):
    """How the entry is reached: the command line's options of the same names; `timeout` in seconds."""

    here: bool
    kernel: Path | None
    entry: str | int | None
    reset: bool
    static_only: bool
    leave: LeaveWord | None
    timeout: float
    via: Literal["remote", "gdb"] | None
    nested: bool


class SubjectArguments(LaunchArguments, EntryArguments, total=False):
    """A subject of any kind; `vmm` names the VMM that a probe's log was made on."""

    spec: SpecName
    vmm: str | None


class JudgeArguments(TypedDict, total=False):
    """Which rules are applied: `select` and `ignore` hold ids or prefixes of ids."""

    strict: bool
    select: Sequence[str]
    ignore: Sequence[str]


class DiffArguments(SubjectArguments, JudgeArguments, total=False):
    """The options of `pvhdbg diff`."""


class CheckArguments(DiffArguments, total=False):
    """The options of `pvhdbg check`. `until` is a symbol, "0xADDRESS" or a mode, `seconds` its time limit."""

    expect: Path | None
    until: str | None
    seconds: float


class FollowArguments(SubjectArguments, total=False):
    """The options of functions that run a machine on from its entry; `seconds` is the time limit."""

    seconds: float


class ElfArguments(JudgeArguments, total=False):
    """The options of `pvhdbg elf`. `loaders` are names of loaders, `memory` is the guest's, as in LaunchArguments."""

    loaders: Sequence[str]
    memory: str | int | None
    spec: SpecName


class ProbeArguments(JudgeArguments, total=False):
    """The options of `pvhdbg probe` for a log. `vmm` names the VMM that it was made on, `kernel` the probe's ELF that was booted."""

    spec: SpecName
    vmm: str | None
    kernel: Path | None


class ProbeRunArguments(JudgeArguments, total=False):
    """The options of `pvhdbg probe --run`; `seconds` is the time limit of the boot, `save` a file that its log is also written to."""

    spec: SpecName
    binary: Path | None
    memory: str | int | None
    initrds: Sequence[Path]
    append: str | None
    seconds: float | None
    save: Path | None
    kernel: Path | None


class BootArguments(LaunchArguments, total=False):
    """The options of `pvhdbg boot`; `timeout` is the time limit for reaching the entry, `seconds` that of the boot."""

    until: str | None
    seconds: float | None
    max_instructions: int | None
    flow: bool
    exact: bool
    timeout: float


class BootDiffArguments(LaunchArguments, total=False):
    """The options of `pvhdbg boot diff`. Those that begin with `b_` are B's own; `kernel` is that of two recordings."""

    until: str | None
    seconds: float | None
    which_option: bool
    kernel: Path | None
    timeout: float
    b_append: str | None
    b_initrd: Path | None
    b_machine: str | None
    b_memory: str | int | None
    b_cpus: int | None
    b_cpu: str | None
    b_accel: Accelerator
    b_qemu: str | None


class GotoArguments(LaunchArguments, total=False):
    """The options of `pvhdbg goto`. `last_write` is a physical address, with ":SIZE" behind it if it is not one byte."""

    last_write: str | None
    seconds: float | None
    timeout: float


class StressArguments(LaunchArguments, total=False):
    """The options of `pvhdbg stress`. `only` and `skip` are ids of mutations, `seconds` is the time limit of each boot."""

    until: str | None
    seconds: float | None
    only: Sequence[str]
    skip: Sequence[str]
    rounds: int
    seed: int
    jobs: int | None
    expect: Path | None


class TraceFileArguments(SubjectArguments, total=False):
    """The options of `pvhdbg trace -o`."""

    until: str | None
    start: str | None
    filter: str | None
    what: Literal["milestones", "pc", "state", "calls"]
    milestone: Sequence[str]
    engine: Literal["auto", "log", "step", "breakpoints", "first"]
    on_reset: Literal["stop", "go"]
    vcpu: int | None
    seconds: float | None


class SweepArguments(TypedDict, total=False):
    """The options of `pvhdbg sweep`: an axis each, with all its values, and how it is carried out. `dask` is a scheduler's address."""

    kernels: Sequence[Path]
    qemus: Sequence[str]
    machines: Sequence[str]
    firmwares: Sequence[str]
    memory: Sequence[str]
    cpus: Sequence[int]
    cpu_models: Sequence[str]
    accelerators: Sequence[Accelerator]
    initrds: Sequence[Path]
    command_lines: Sequence[str]
    revisions: Sequence[SpecName]
    goals: Sequence[str]
    expectations: Sequence[Path]
    mutations: Sequence[str]
    jobs: int | None
    dask: str | None
    resume: bool
    dry_run: bool


class TimelineArguments(SubjectArguments, total=False):
    """The options of `pvhdbg timeline`, for a subject that is traced now."""

    until: str | None
    milestone: Sequence[str]
    seconds: float | None


_WORDS = frozenset({"extra", "select", "ignore", "loaders", "initrds", "only", "skip", "milestone"})
_AS_TEXT = frozenset({"memory", "b_memory"})  # numbers that the command line has as words: MiB


def refuse_unknown(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for a keyword argument that the function of that name does not take; it names the nearest one."""
    names = sorted(known)
    for name in given:
        if name not in names:
            from difflib import get_close_matches

            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}"
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}: {hint}")


def values_of(function: str, kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as a parsed command line has them. Raises TypeError for one that the TypedDict `kind` does not have."""
    refuse_unknown(function, given, kind.__annotations__)
    return {name: _value(name, value) for name, value in given.items()}


def _value(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | float):
        if name in _WORDS and isinstance(value, str):
            raise TypeError(f"{name} is a list of words, not one: {name}=[{value!r}]")
        return value
    if isinstance(value, int):
        return hex(value) if name == "entry" else str(value) if name in _AS_TEXT else value
    return os.fspath(value) if isinstance(value, os.PathLike) else tuple(str(one) for one in value)


def subject_of(function: str, subject: Path, kind: type[Any], given: Mapping[str, Any]) -> SubjectOptions:
    """The options of a subject. Raises TypeError as `values_of`."""
    return options_of(SubjectOptions, {**values_of(function, kind, given), "subject": os.fspath(subject)})
