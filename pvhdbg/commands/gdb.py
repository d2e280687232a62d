"""`pvhdbg gdb-path` and `pvhdbg gdb`: the path of the script for GDB's `source`, and a GDB that has sourced it.

GDB connects before it gets symbols, and gets them as symbols only: with an ELF32 program it would refuse the 64-bit registers of
qemu-system-x86_64. The symbols are added at both aliases, so that a breakpoint on a name works before paging and after.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, NoReturn

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.errors import BadInput, VmmFailed
from pvhdbg.record import NamedTuple
from pvhdbg.targets.address import StubAddress, parse_address

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage

_SCRIPT = os.path.join("in_gdb", "pvhdbg-gdb.py")


def script_path() -> str:
    """The path of the script to source. Raises BadInput where the package was installed without it."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), _SCRIPT)
    if not os.path.isfile(path):
        raise BadInput(f"{path} is missing", "install pvhdbg again")
    return path


@takes(NoOptions)
def gdb_path(options: NoOptions, context: Context) -> Answer:
    """`gdb-path`: print it."""
    path = script_path()
    return Answer(lambda _: f"{path}\n")


class GdbOptions(NamedTuple):
    """The options of `gdb`; `extra` is for GDB."""

    kernel: str | None = None
    target: str | None = None
    extra: tuple[str, ...] = ()


@takes(GdbOptions)
def gdb(options: GdbOptions, context: Context) -> NoReturn:
    """`gdb`: replace this process by GDB with the extension, the kernel's symbols, and the machine. Raises PvhdbgError."""
    program = shutil.which("gdb")
    if program is None:
        raise VmmFailed("gdb is not installed", "install it, or use: pvhdbg attach")
    kernel, target = _told_apart(options)
    words = [program, "-q", *_options(kernel, target), *options.extra]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        os.execv(program, words)  # noqa: S606 - GDB takes our place, terminal and signals with it
    except OSError as error:
        raise VmmFailed(f"gdb cannot be started: {error.strerror}", f"see: {program} --version") from error


def _told_apart(options: GdbOptions) -> tuple[str | None, StubAddress | None]:
    """The kernel and the machine of `gdb [KERNEL] [TARGET]`, told apart by their form."""
    kernel, target = options.kernel, options.target
    if kernel is not None and target is None and not _is_file(kernel):
        kernel, target = None, kernel
    return kernel, None if target is None else parse_address(target)


def _is_file(path: str) -> bool:
    return os.path.isfile(path) or (os.sep in path and not path.startswith("unix:") and not os.path.exists(path))


def _options(kernel: str | None, target: StubAddress | None) -> list[str]:
    commands = [f"source {_plain(script_path())}"]
    if target is not None:
        commands.append(f"target remote {target.for_gdb()}")
    if kernel is not None:
        from pvhdbg.kernel.image import open_kernel

        with open_kernel(kernel) as image:
            commands += [*_named(image), *symbol_commands(image, connected=target is not None)]
    return [word for command in commands for word in ("-ex", command)]


def _named(image: KernelImage) -> list[str]:
    return [f"set pvh kernel {_plain(os.path.abspath(image.path))}"]


def symbol_commands(image: KernelImage, connected: bool = True, load_bias: int = 0, virtual_bias: int = 0) -> list[str]:
    """The GDB commands that load the kernel's symbols at both aliases. Raises BadInput for a path that GDB cannot be given.

    `load_bias` and `virtual_bias` are how far the kernel lies from its physical and its virtual link-time addresses.
    """
    path, commands = os.path.abspath(image.path), []
    if _names_itself(image):
        from pvhdbg.kernel.symbol_cache import symbols_of

        try:
            path = symbols_of(image)
        except OSError as error:
            return [_said(f"the kernel's own symbols cannot be written to a file for GDB: {error.strerror}")]
        except BadInput as error:
            return [_said(error.what)]
    elif image.was != "ELF":
        return [_said(f"there are no symbols in this {image.was}")]
    if image.elf.bits == 32 and not connected:
        commands.append("set architecture i386:x86-64")  # with the file's own architecture GDB would refuse QEMU's registers later
    commands.append(f"symbol-file {_quoted(path)}" + (f" -o {virtual_bias % (1 << 64):#x}" if virtual_bias else ""))
    offset = (_physical_offset(image) + load_bias) % (1 << 64)
    if offset != virtual_bias % (1 << 64):
        commands.append(f"with confirm off -- add-symbol-file {_quoted(path)} -o {offset:#x}")
    return commands


def _names_itself(image: KernelImage) -> bool:
    """Whether the kernel is a stripped Linux with a table of its own (kallsyms), which GDB does not read."""
    try:
        return image.symbols().origin == "kallsyms"
    except BadInput:
        return False  # a damaged .symtab: GDB reports it itself


def _said(text: str) -> str:
    """A GDB command that prints `text`."""
    return f"echo {_escaped(_plain(f'pvh: {text}'))}\\n"


def _physical_offset(image: KernelImage) -> int:
    """The offset from the addresses of the entry's segment to physical ones, modulo 2^64."""
    entry = image.kernel().entry
    for load in image.elf.loads:
        if entry is not None and load.p_paddr <= entry < load.p_paddr + load.p_memsz:
            return (load.p_paddr - load.p_vaddr) % (1 << 64)
    return 0


def _plain(text: str) -> str:
    """Text for a command that takes the rest of its line unquoted."""
    if not text.isprintable():
        raise BadInput(f"GDB cannot be given {text!r}", "use a path of printable characters")
    return text


def _quoted(text: str) -> str:
    return '"' + _escaped(_plain(text)) + '"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
