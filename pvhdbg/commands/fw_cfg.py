"""`fwcfg`: read QEMU's fw_cfg items of a stopped machine, and compare them with those that the simulated loader expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.subject_options import AboutSubject
from pvhdbg.decode import fw_cfg
from pvhdbg.errors import TargetError
from pvhdbg.loaders.loading import BootParameters, FwCfgItem
from pvhdbg.loaders.qemu import QEMU
from pvhdbg.machine.entry_search import firmware_runs
from pvhdbg.machine.subject import halted
from pvhdbg.report.json_text import written
from pvhdbg.report.style import Style
from pvhdbg.targets.target import Target

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage

_HEAD = 32  # bytes of a data item that are read: each takes a monitor command
# QEMU keeps a pointer to a buffer on x86_load_linux's stack (hw/i386/x86-common.c), which no longer exists when the item is read.
_NOT_KEPT = "SETUP_DATA"
_LINE_BOUND = 2048  # bytes of the command line, an input of the prediction


@dataclass(frozen=True)
class Row:
    """One item: the machine's value, and the expected one (None: it depends on the run, or no file was given)."""

    name: str
    real: int | bytes
    expected: int | bytes | None

    @property
    def agrees(self) -> bool | None:
        """Whether both are the same; None where there is nothing to compare with. Long data is compared by its first bytes."""
        if self.expected is None:
            return None
        if isinstance(self.expected, bytes) and isinstance(self.real, bytes):
            size = min(len(self.expected), len(self.real))
            return self.real[:size] == self.expected[:size]
        return self.real == self.expected


@takes(AboutSubject)
def fwcfg(options: AboutSubject, context: Context) -> Answer:
    """`fwcfg`: exit code 1 where an item is not as expected."""
    with _halted(options, context) as (target, image):
        if not target.capabilities.monitor:
            raise TargetError(
                "fw_cfg is read through QEMU's monitor, which this gdbstub does not have",
                "fw_cfg is a device of QEMU: use its gdbstub",
            )
        if firmware_runs(target.read_registers()):
            what = "the machine is inside its firmware, which may be reading fw_cfg itself"
            raise TargetError(what, "stop it at its reset vector (-S) or at the kernel's entry")
        rows, loader = _rows(target, image)
    wrong = any(row.agrees is False for row in rows)
    document = {
        "schema": "pvhdbg/fwcfg/1",
        "expected": loader,
        "items": [
            {"name": row.name, "value": _json(row.real), "expected": _json(row.expected), "agrees": row.agrees} for row in rows
        ],
    }
    return Answer(lambda style: _text(rows, loader, style), lambda: written(document), 1 if wrong else 0, value=tuple(rows))


@contextmanager
def _halted(options: AboutSubject, context: Context) -> Iterator[tuple[Target, KernelImage | None]]:
    session = context.session
    if session is None:
        with halted(options.about, context.progress) as found:
            yield found
        return
    session.needs_control("fwcfg")
    yield session.target, session.image


def _rows(target: Target, image: KernelImage | None) -> tuple[list[Row], str | None]:
    monitor = target.monitor
    if not fw_cfg.is_there(monitor):
        raise TargetError(
            "no fw_cfg device answers at port 0x510",
            "it is a device of QEMU's PC machines; -machine isapc and -machine none lack it",
        )
    real: dict[str, int | bytes] = {name: fw_cfg.number(monitor, name) or 0 for name in fw_cfg.NUMBERS}
    for name, key in fw_cfg.BYTES.items():
        size = real.get(f"{name.removesuffix('_DATA')}_SIZE", 0)
        assert isinstance(size, int)
        bound = _LINE_BOUND if name == "CMDLINE_DATA" else _HEAD
        real[name] = fw_cfg.read_item(monitor, key, min(size, bound)) or b""
    expected, loader = ({}, None) if image is None else _expected(image, real)
    names = [name for name, value in real.items() if _is_set(value) or name in expected]
    return [Row(name, real[name], _value(expected.get(name))) for name in names], loader


def _is_set(value: int | bytes) -> bool:
    """An item that was never set reads as zeros."""
    return any(value) if isinstance(value, bytes) else bool(value)


def _expected(image: KernelImage, real: dict[str, int | bytes]) -> tuple[dict[str, FwCfgItem], str | None]:
    """The items that QEMU's loader sets; those that depend on the run (command line, initrd) are taken from the machine."""
    line, initrd = real["CMDLINE_DATA"], real["INITRD_SIZE"]
    assert isinstance(line, bytes)
    assert isinstance(initrd, int)
    loading = QEMU.load(
        image.file(), BootParameters(line.split(b"\0")[0], initrd, kernel_path=image.elf_path.encode("utf-8", "surrogateescape"))
    )
    return {item.name: item for item in loading.fw_cfg if item.name != _NOT_KEPT}, loading.protocol


def _value(item: FwCfgItem | None) -> int | bytes | None:
    return None if item is None else item.value


def _json(value: int | bytes | None) -> str | None:
    if value is None:
        return None
    return f"{value:#x}" if isinstance(value, int) else value[:_HEAD].hex()


def _text(rows: list[Row], protocol: str | None, style: Style) -> str:
    lines = [style("head", f"{'item':<14} {'machine':<40} {'expected':<40}")]
    for row in rows:
        mark = {True: style("good", "same"), False: style("bad", "DIFFERS"), None: style("dim", "-")}[row.agrees]
        lines.append(f"{row.name:<14} {_shown(row.real):<40} {_shown(row.expected):<40} {mark}")
    if protocol is not None:
        lines.append(f"expected of QEMU's -kernel loader, which boots this file by {protocol}; - depends on the run")
    else:
        lines.append("nothing is expected: name the kernel with --kernel")
    return "\n".join(lines) + "\n"


def _shown(value: int | bytes | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:#x}"
    return f"{value[:12].hex(' ', 4)}{'…' if len(value) > 12 else ''}" or "nothing"
