"""The answers about pvhdbg itself, and about what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pvhdbg.report.answers.declare import answer


class ToolState(NamedTuple):
    """A program or package that pvhdbg uses: its version, or what is wrong with it; the commands that need it; how to get it."""

    name: str
    present: bool
    detail: str | None
    needed_by: str
    package: str


@answer("doctor")
class DoctorAnswer(NamedTuple):
    """What is here of all that pvhdbg uses. `ready`: kernels can be started."""

    version: str
    python: str
    tools: tuple[ToolState, ...]
    ready: bool


class ListedVmm(NamedTuple):
    """A VMM that can boot the probe: `missing` and `todo` say why it cannot be run here, and what to do about it."""

    name: str
    title: str
    here: bool
    version: str | None
    path: str | None
    missing: str | None
    todo: str | None


@answer("probe-list")
class ProbeListAnswer(NamedTuple):
    """The VMMs that the probe can be booted under."""

    vmms: tuple[ListedVmm, ...]


class ProbedVmmState(NamedTuple):
    """One VMM of a table: the conclusion on its hand-off, what is `missing` here, or the `error` of its boot."""

    name: str
    title: str
    version: str | None
    missing: str | None
    error: str | None
    conclusion: str | None
    exit_code: int | None


class RuleByVmm(NamedTuple):
    """A rule's outcome for each VMM that was judged."""

    id: str
    severity: str
    outcomes: Mapping[str, str]


@answer("probe-table")
class ProbeTableAnswer(NamedTuple):
    """The probe under all VMMs that are here."""

    vmms: tuple[ProbedVmmState, ...]
    rules: tuple[RuleByVmm, ...]
    exit_code: int


class SettingState(NamedTuple):
    """A setting: its value, and the file or the variable that it is from; null where the default holds."""

    name: str
    value: str | None
    source: str | None


@answer("config")
class ConfigAnswer(NamedTuple):
    """The settings, and where they are from."""

    settings: tuple[SettingState, ...]


@answer("schemas")
class SchemasAnswer(NamedTuple):
    """The ids of all schemas."""

    schemas: tuple[str, ...]
