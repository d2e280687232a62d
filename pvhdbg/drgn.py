"""`drgn`: drgn's Program over a machine, a snapshot or a core: memory through the machine's own page tables, types by the debug info.

A Program of a running Linux needs a booted system or a core of it. This one works from the first instruction on: what the kernel's file
maps is read at its physical place, before paging and after, and everything else by the page tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pvhdbg.commands.declare import Answer, Context, takes
from pvhdbg.commands.machine import session_of
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.machine.subject_kind import SubjectKind, subject_kind
from pvhdbg.targets.run import run_until

try:
    import drgn as library
    from drgn.cli import run_interactive
except ModuleNotFoundError as missing:  # an extra
    raise BadInput("the package drgn is not installed for this Python", "install it: pip install 'pvhdbg[drgn]'") from missing

_SECONDS = 60.0  # that --until waits, unless --for says another number
_ADDRESSES = 1 << 64
_DEBUG_INFO = "give a kernel with DWARF debug info (Debian: the package linux-image-amd64-dbg)"


class DrgnOptions(NamedTuple):
    """The options of `drgn`; `code` are lines of Python that have the Program as `prog`, instead of a prompt."""

    about: SubjectOptions = SubjectOptions()
    until: str | None = None
    seconds: float | None = None
    code: tuple[str, ...] = ()


@takes(DrgnOptions)
def drgn(options: DrgnOptions, context: Context) -> Answer:
    """`drgn`: run to the entry, or on to a symbol, then Python. Raises PvhdbgError."""
    with _session(options.about, context) as session:
        if options.until:
            places = session.placement.aliases(options.until)
            session.resumed()
            run_until(session.target, places, options.seconds or _SECONDS, progress=context.progress)
            session.stopped()
        prog = program(session)
        if not options.code:
            run_interactive(prog, banner_func=lambda _: f"pvhdbg: prog is the machine at {safe(options.about.subject)}", quiet=True)
            return Answer(lambda _: "")
        names = {"prog": prog, "drgn": library}
        for line in options.code:
            _run(line, names)
    return Answer(lambda _: "")


@contextmanager
def _session(about: SubjectOptions, context: Context) -> Iterator[Session]:
    """As for every command; a snapshot, which names its kernel only, takes the file here: it has the debug info."""
    file = about.way.kernel
    if file is None or subject_kind(about.subject) is not SubjectKind.SNAPSHOT:
        with session_of(about, context) as session:
            yield session
        return
    plain = about._replace(way=about.way._replace(kernel=None))
    with session_of(plain, context) as session, open_kernel(file) as image:
        session.use_image(image)
        yield session


def _run(line: str, names: dict[str, Any]) -> None:
    """Run a line; the value of an expression is printed. Raises BadInput for what the line raises."""
    try:
        try:
            code = compile(line, "-c", "eval")
        except SyntaxError:
            exec(compile(line, "-c", "exec"), names)  # noqa: S102 - the user's own line
            return
        value = eval(code, names)  # noqa: S307
    except Exception as error:
        raise BadInput(f"{line}: {type(error).__name__}: {error}", "see drgn's documentation for what a Program has") from error
    if value is not None:
        sys.stdout.write(f"{value}\n")


def program(session: Session) -> library.Program:
    """A Program over the machine as it is stopped; it is valid until the machine runs. Raises BadInput without debug info."""
    wide = session.image is None or session.image.elf.bits == 64
    prog = library.Program(library.Platform(library.Architecture.X86_64 if wide else library.Architecture.I386))
    most = (_ADDRESSES if wide else 1 << 32) - 1
    prog.add_memory_segment(0, most, _reader(session.physical), physical=True)
    prog.add_memory_segment(0, most, _reader(_mapped(session)))
    if session.image is None:
        return prog
    loads = [one for one in session.image.elf.loads if one.p_memsz]
    offset = session.placement.virtual_bias
    kernel = prog.extra_module("kernel", create=True)  # not the main one, whose ELF header drgn looks for in memory
    kernel.address_range = (loads[0].p_vaddr + offset, max(one.p_vaddr + one.p_memsz for one in loads) + offset)
    path = session.image.elf_path
    try:
        kernel.try_file(path, force=True)
    except Exception as error:
        raise BadInput(f"{path}: drgn does not read it: {error}", _DEBUG_INFO) from error
    if kernel.wants_debug_file():
        raise BadInput(f"{path} has no debug info that drgn reads", _DEBUG_INFO)
    return prog


def _mapped(session: Session) -> Callable[[int, int], bytes]:
    """Memory by linear address: the kernel's own segments where they lie in physical memory, the rest by the page tables."""
    placement = session.placement
    loads = () if session.image is None else session.image.elf.loads
    places = [(one.p_vaddr + placement.virtual_bias, one.p_memsz, one.p_paddr + placement.load_bias) for one in loads]

    def read(address: int, size: int) -> bytes:
        for start, length, physical in places:
            if start <= address and address + size <= start + length:
                return session.physical(physical + address - start, size)
        return session.linear(address, size)

    return read


def _reader(read: Callable[[int, int], bytes]) -> Callable[[int, int, int, bool], bytes]:
    def called(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return read(address, count)
        except PvhdbgError as error:
            raise library.FaultError(str(error.what), address) from error

    return called
