"""Settings: defaults of options that a user or a project chose, and `config`, which shows what holds and where it is from.

Later ones win: the user's file ($XDG_CONFIG_HOME/pvhdbg/config.toml), the project's (`pvhdbg.toml`, or `[tool.pvhdbg]` in
`pyproject.toml`, in the current folder or above it up to the root of the repository), the environment (PVHDBG_MACHINE …), options.
A project's file may not name programs: a hostile checkout would have them run.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

from pvhdbg.commands.declare import Answer, Context, NoOptions, shows, takes
from pvhdbg.errors import BadInput
from pvhdbg.record import NamedTuple

# The options that a setting can give, each with the type of its value in a file.
_LAUNCH = {"machine": str, "memory": str, "cpus": int, "cpu": str, "accel": str, "qemu": str}  # of a kernel file alone
NAMES: Mapping[str, type] = {**_LAUNCH, "spec": str, "timeout": float, "color": str}
_PROGRAMS = frozenset({"qemu"})
_VALUES = {"accel": ("tcg", "kvm", "auto"), "spec": ("draft-a", "v0", "v1"), "color": ("auto", "always", "never")}
_TYPE = re.compile(r"[\w.-]+", re.ASCII)  # of a machine without properties, some of which name files
_SIZE = re.compile(r"\d{1,12}[KMGT]?", re.ASCII | re.IGNORECASE)  # of memory without what QEMU takes behind it
_LARGEST = 1 << 20  # bytes of a file
_BOUND, _LINE = 1 << 14, 1000  # bytes of the settings in it, and of a line: tomllib needs the square of a dotted key's length


class Setting(NamedTuple):
    """A setting that holds, and the file or the variable that it is from."""

    name: str
    value: str | int | float
    source: str


def settings() -> dict[str, Setting]:
    """What holds, by name. Raises BadInput for a file or a variable that is wrong."""
    found: dict[str, Setting] = {}
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    found |= _of_file(os.path.join(base, "pvhdbg", "config.toml"), ())
    project = _project()
    if project is not None:
        found |= _of_file(*project, programs=False)
    for name in NAMES:
        variable = f"PVHDBG_{name.upper()}"
        if text := os.environ.get(variable):
            found[name] = _setting(name, text, variable)
    return found


def _project() -> tuple[str, tuple[str, ...]] | None:
    """The project's file, and the table in it."""
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        return None
    while True:
        for name, table in (("pvhdbg.toml", ()), ("pyproject.toml", ("tool", "pvhdbg"))):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and (not table or _section(_read(path), table)):
                return path, table
        above = os.path.dirname(folder)
        if above == folder or os.path.exists(os.path.join(folder, ".git")):
            return None
        folder = above


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "make it readable, or remove it") from error


def _section(text: bytes, table: tuple[str, ...]) -> bytes:
    """The lines of a table, which is not the whole file: nothing else of a project's file is parsed. Its values are not tables."""
    head = re.compile(rb"[ \t]*\[" + rb"[ \t]*\.".join(rb"[ \t]*" + one.encode() for one in table) + rb"[ \t]*\][ \t]*(?:#.*)?")
    found: list[bytes] = []
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith(b"["):
            inside = head.fullmatch(line) is not None
        elif inside:
            found.append(line)
    return b"\n".join(found)


def _of_file(path: str, table: tuple[str, ...], programs: bool = True) -> dict[str, Setting]:
    if not os.path.isfile(path):
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = _section(_read(path), table) if table else _read(path)
    if len(text) > _BOUND or max(map(len, text.splitlines()), default=0) > _LINE:
        raise BadInput(f"{path}: its settings have more than {_BOUND} bytes, or a line more than {_LINE}", "shorten it")
    try:
        values: dict[str, Any] = tomllib.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: {error}", "see: pvhdbg config --help") from error
    found = {}
    for name, value in values.items():
        if name not in NAMES:
            raise BadInput(f"{path}: {name} is not a setting", f"the settings are {', '.join(NAMES)}")
        if name in _PROGRAMS and not programs:
            raise BadInput(
                f"{path}: a project's file may not name the program {name}", f"set PVHDBG_{name.upper()}, or give --{name}"
            )
        found[name] = _setting(name, value, path)
        for one, form, what in (("machine", _TYPE, "a machine's type"), ("memory", _SIZE, "a size")):
            if name == one and not programs and not form.fullmatch(str(value)):
                raise BadInput(f"{path}: {one} = {value!r} is more than {what}", f"give the properties with --{one}")
    return found


def _setting(name: str, value: Any, source: str) -> Setting:
    """The setting with its value as the option has it. Raises BadInput."""
    kind = NAMES[name]
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        typed: str | int | float = kind(value)
    except ValueError:
        raise BadInput(
            f"{source}: {name} = {value!r} is not {'a number' if kind is not str else 'text'}", "see: pvhdbg config"
        ) from None
    if name in _VALUES and typed not in _VALUES[name]:
        raise BadInput(f"{source}: {name} = {value!r} is not one of {', '.join(_VALUES[name])}", "choose one of them")
    return Setting(name, typed, source)


def apply(values: dict[str, Any], given: Collection[str]) -> None:
    """Put settings into a parsed line where it gave no option: `given` are the names of the options that it gave.

    A setting about QEMU is for kernel files alone. Raises BadInput as `settings`.
    """
    waiting = {name: one for name, one in settings().items() if name in values and name not in given}
    if not waiting:
        return
    if _LAUNCH.keys() & waiting and not _starts_qemu(values):
        waiting = {name: one for name, one in waiting.items() if name not in _LAUNCH}
    values.update({name: one.value for name, one in waiting.items()})


def _starts_qemu(values: Mapping[str, Any]) -> bool:
    from pvhdbg.machine.subject_kind import SubjectKind, subject_kind

    subjects = [str(values[name]) for name in ("subject", "a", "b") if values.get(name)]
    return any(subject_kind(one) is SubjectKind.KERNEL for one in subjects)


@takes(NoOptions)
def config(options: NoOptions, context: Context) -> Answer:
    """`config`: each setting, its value, and where that is from."""
    from pvhdbg.report.answers.tool import ConfigAnswer, SettingState

    found = settings()
    states = tuple(
        SettingState(name, str(found[name].value), found[name].source) if name in found else SettingState(name, None, None)
        for name in NAMES
    )
    lines = [
        f"{one.name:<8} {one.value if one.value is not None else '(default)':<20} {one.source or ''}".rstrip() for one in states
    ]
    text = "".join(f"{line}\n" for line in lines)
    return shows(lambda _: text, ConfigAnswer(states))
