"""Write a first file of expectations from one boot, with the fields that a change of kernel, VMM or options would alter.

The same boot fulfils them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from pvhdbg.decode.boot_state import BootState
from pvhdbg.expect.conditions import words
from pvhdbg.expect.fields import Absent, ValueKind, resolve
from pvhdbg.expect.quantity import size_words
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import Outcome, Severity, Verdict

# Written with ==, if the boot has them.
_EXACT = (
    "vmm.firmware", "entry.symbol", "start_info.version", "start_info.flags", "start_info.command_line", "modules.count",
    "start_info.rsdp.revision", "registers.cr0", "registers.cr4", "registers.efer", "segments.cs.limit", "segments.tr.limit",
)  # fmt: skip
_OPTIONS = {
    "-append": "append", "-initrd": "initrd", "-machine": "machine", "-M": "machine", "-m": "memory", "-cpu": "cpu",
    "-smp": "cpus", "-accel": "accel",
}  # fmt: skip
_MODULES_BOUND = 8
_MIB = 20


def first_file(boot: BootState, verdicts: Iterable[Verdict], source: str) -> str:
    """The TOML text. `source` names the source of the boot."""
    sections = [
        [f"# Expectations from {_comment(source)}: pvhdbg check KERNEL --expect THIS", "# Remove what may change."],
        _machine(boot),
        *_expectations(boot),
        *_allowances(verdicts, source),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _machine(boot: BootState) -> list[str]:
    """The start of the machine: those arguments of its VMM that are known and have the same meaning here."""
    if boot.snapshot.vmm.name != "QEMU" or not boot.snapshot.vmm.command:
        return []
    found: dict[str, str] = {}
    command = boot.snapshot.vmm.command
    redacted = boot.snapshot.sources.get("command line") == "redacted"
    for option, value in pairwise(command):
        name = _OPTIONS.get(option)
        if name is None or (name == "append" and redacted) or (name == "accel" and value not in ("tcg", "kvm")):
            continue
        if name == "cpus":
            if value.isdecimal() and value.isascii() and 0 < int(value[:5]) < 1 << 16:
                found[name] = value
        elif value:
            found[name] = quoted(value)
    return ["[machine]", *(f"{name} = {value}" for name, value in found.items())] if found else []


def _expectations(boot: BootState) -> Iterator[list[str]]:
    for path in _EXACT:
        if path.endswith("command_line") and boot.snapshot.sources.get("command line") == "redacted":
            continue
        yield _exact(boot, path)
    for index in range(_MODULES_BOUND):
        yield _exact(boot, f"modules[{index}].kind")
    try:
        ram = resolve("memory_map.ram").read(boot)
    except (Unavailable, Absent):
        return
    yield ["[[expect]]", 'field = "memory_map.ram"', f'">=" = {quoted(size_words(ram >> _MIB << _MIB))}']


def _exact(boot: BootState, path: str) -> list[str]:
    field = resolve(path)
    try:
        value = field.read(boot)
    except (Unavailable, Absent):
        return []
    shown = quoted(value) if field.kind is ValueKind.TEXT else words(ValueKind.NUMBER, value)
    return ["[[expect]]", f"field = {quoted(path)}", f'"==" = {shown}']


def _allowances(verdicts: Iterable[Verdict], source: str) -> Iterator[list[str]]:
    for verdict in verdicts:
        if verdict.outcome is Outcome.FAIL and verdict.severity is not Severity.INFO:
            found = "; ".join(f"{one.at} was {one.found}" for one in verdict.violations[:3])
            yield [
                "[[allow]]",
                f"rule = {quoted(verdict.rule.id)}",
                f"reason = {quoted(f'found in {source}: {found}')}",
            ]


def quoted(text: str) -> str:
    """A TOML basic string (TOML 1.0, "String"). A lone surrogate, which TOML cannot hold, becomes a replacement character."""
    parts = []
    for letter in text:
        code = ord(letter)
        if letter in '"\\':
            parts.append(f"\\{letter}")
        elif 0xD800 <= code <= 0xDFFF:
            parts.append("\N{REPLACEMENT CHARACTER}")
        elif letter.isprintable():
            parts.append(letter)
        else:
            parts.append(f"\\u{code:04X}" if code < 1 << 16 else f"\\U{code:08X}")
    return f'"{"".join(parts)}"'


def _comment(text: str) -> str:
    return quoted(text)[1:-1]
