"""`doctor`: what of the programs and packages that pvhdbg uses is here, which commands need it, and how to get what is missing."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

from pvhdbg.commands.declare import Answer, Context, NoOptions, shows, takes
from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import PvhdbgError
from pvhdbg.record import NamedTuple
from pvhdbg.report.answers.tool import DoctorAnswer, ToolState
from pvhdbg.report.style import Style
from pvhdbg.tracing.recorder.library import prebuilt
from pvhdbg.version import VERSION
from pvhdbg.vmm.failures import check_version
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.qemu import version_of

_PATIENCE = 10.0  # seconds for a program's answer
_BOUND = 1 << 16  # bytes of it that are read
_LINE = 120  # characters of it that are shown
_INDENT = " " * 21


class Missing(Exception):
    """It is not here, or cannot be used: the message says why, where there is more to say."""


class Requirement(NamedTuple):
    """One thing that pvhdbg uses. `look` returns what is here in words, or raises Missing; `package` is Debian's, or a command."""

    name: str
    look: Callable[[], str]
    needed_by: str
    package: str
    essential: bool = False


def _program(name: str, *words: str) -> str:
    """The first bytes that a program prints. Raises Missing."""
    found = shutil.which(name)
    if found is None:
        raise Missing("")
    try:
        done = subprocess.run([found, *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{found} does not answer") from error
    return done.stdout[:_BOUND].decode("utf-8", "replace")


def _first_line(name: str) -> str:
    return _program(name, "--version").partition("\n")[0].strip()


def _qemu() -> str:
    try:
        version = version_of()
        check_version(version)
    except PvhdbgError as error:
        raise Missing(error.what if shutil.which(DEFAULT_QEMU) else "") from error
    return version


def _plugins() -> str:
    if re.search(r"^-plugin ", _program(DEFAULT_QEMU, "-help"), re.MULTILINE) is None:
        raise Missing("this QEMU was built without --enable-plugins")
    return "yes"


def _recorder() -> str:
    if prebuilt() is not None:
        return "built, in this package"
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise Missing("the recorder must be built")
    return _first_line(compiler)


def _kvm() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise Missing("you may not open /dev/kvm: join the group kvm") from error
    except OSError as error:
        raise Missing(f"/dev/kvm cannot be opened: {error.strerror}") from error
    return "/dev/kvm can be opened"


def _gdbs_python() -> str:
    said = _program("gdb", "-nx", "-batch", "-ex", "python import platform; print('Python', platform.python_version())")
    if not said.startswith("Python "):
        raise Missing("this GDB was built without Python")
    return said.partition("\n")[0]


def _gdbs_adapter() -> str:
    script = "python import importlib.util; print(importlib.util.find_spec('gdb.dap') is not None)"
    if not _program("gdb", "-nx", "-batch", "-ex", script).startswith("True"):
        raise Missing("this GDB has none: 14 is the first with one")
    return "yes"


def _module(name: str) -> Callable[[], str]:
    def look() -> str:
        if find_spec(name) is None:
            raise Missing("")
        from importlib.metadata import PackageNotFoundError, packages_distributions, version

        try:
            return version(packages_distributions()[name][0])
        except (PackageNotFoundError, KeyError):
            return "yes"

    return look


def _zstd() -> str:
    try:
        return f"module zstandard {_module('zstandard')()}"
    except Missing:
        return _first_line("zstd").strip("* ")


def _debug_info() -> str:
    found = sorted(glob.glob("/usr/lib/debug/boot/vmlinux-*") + glob.glob("/usr/lib/debug/lib/modules/*/vmlinux"))
    if not found:
        raise Missing("no kernel under /usr/lib/debug has any")
    return found[-1]


PARTS: tuple[Requirement, ...] = (
    Requirement("QEMU", _qemu, "check, run, why and all others that start a kernel file", "qemu-system-x86", essential=True),
    Requirement("QEMU plugins", _plugins, "boot, goto, trace at full speed", "qemu-system-x86"),
    Requirement("C compiler", _recorder, "boot, goto: it builds the recorder, once", "gcc libc6-dev"),
    Requirement("KVM", _kvm, "--accel kvm", "a CPU with virtualization, and its kernel module"),
    Requirement("GDB", lambda: _first_line("gdb"), "gdb, --via gdb, lines for GDB at the prompt", "gdb"),
    Requirement("GDB's Python", _gdbs_python, "gdb, gdb-path: the command pvh in GDB", "gdb"),
    Requirement("GDB's adapter", _gdbs_adapter, "editors (docs/editors.md)", "GDB 14 or newer: Debian 13 has 16"),
    Requirement("zstd", _zstd, "kernels that are compressed with zstd", "zstd"),
    Requirement("lz4", _module("lz4"), "kernels that are compressed with lz4", "python3-lz4, or: pip install lz4"),
    Requirement("disassembler", _module("iced_x86"), "trace, elf: instructions as text", "pip install iced-x86"),
    Requirement("debug info", _debug_info, "source lines, elf --type: of this machine's own kernel", "linux-image-amd64-dbg"),
    Requirement("drgn", _module("drgn"), "drgn: kernel structures by their names", "pip install 'pvhdbg[drgn]'"),
    Requirement("MCP's SDK", _module("mcp"), "mcp: tools for agents", "pip install 'pvhdbg[mcp]'"),
    Requirement("Dask", _module("distributed"), "sweep --dask: boots on other computers", "pip install 'pvhdbg[dask]'"),
    Requirement("Xen", lambda: _program("xl", "info").partition("\n")[0] or "xl", "the guest probe on Xen", "xen-utils"),
)


@takes(NoOptions)
def doctor(options: NoOptions, context: Context) -> Answer:
    """`doctor`: exit code 1 if no kernel can be started."""
    found = []
    ready = True
    for part in PARTS:
        context.progress(f"looking for {part.name}")
        try:
            state, detail = True, part.look()
        except Missing as gap:
            state, detail = False, str(gap)
        ready = ready and (state or not part.essential)
        found.append(ToolState(part.name, state, shorten(safe(detail), _LINE) or None, part.needed_by, part.package))
    document = DoctorAnswer(VERSION, platform.python_version(), tuple(found), ready)
    return shows(lambda style: _text(document, style), document, 0 if ready else 1)


def _text(document: DoctorAnswer, style: Style) -> str:
    lines = [f"pvhdbg {document.version}, Python {document.python}, {platform.system()} {platform.machine()}"]
    for one in document.tools:
        mark = style("good", "yes") if one.present else style("warn", "no ")
        lines.append(f"  {mark}  {one.name:<13} {one.detail or ('not found' if not one.present else '')}".rstrip())
        lines.append(style("dim", f"{_INDENT}for {one.needed_by}"))
        if not one.present:
            lines.append(f"{_INDENT}get it: {one.package}")
    lines.append("ready: kernels can be started" if document.ready else "not ready: no kernel can be started")
    return "\n".join(lines) + "\n"
