"""Boot every sample guest on every machine and firmware of the QEMUs at hand, and write docs/conformance.md, docs/rules.md and docs/vmms.md.

Exit codes: 0 done · 1 done, and a hand-off fails a rule without a record · 2 usage · 3 a boot made no hand-off, or a QEMU or
host cannot be used · 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance import boots, host, matrix, table, vmms
from conformance.boots import Boot
from conformance.matrix import Found
from conformance.progress import Progress
from conformance.swept import Sweeper
from pvhdbg import guests
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.report import rules_page, vmms_page
from pvhdbg.sweep.store import created
from pvhdbg.vmm.options import DEFAULT_QEMU

DOCS = Path(__file__).parent.parent / "docs"
DB = DOCS.parent / "build" / "conformance.db"
INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    wanted = _arguments().parse_args(words)
    progress = Progress(sys.stderr)
    try:
        return _run(wanted, progress)
    except PvhdbgError as error:
        progress.line(safe(error.what) + (f"\n  next: {safe(error.todo)}" if error.todo else ""))
        return error.exit_code
    except OSError as error:
        progress.line(f"{error.filename or 'writing'}: {error.strerror}")
        return BadInput.exit_code
    except KeyboardInterrupt:
        progress.line("interrupted: nothing was written; go on with --resume")
        return INTERRUPTED


def _run(wanted: argparse.Namespace, progress: Progress) -> int:
    if wanted.rules_only:
        _write_generated(wanted.output)
        return 0
    if wanted.vmms_only:
        page = wanted.output / "conformance.md"
        before = page.read_text(encoding="utf-8")
        text = before.replace(vmms.part_of(before), "").rstrip("\n") + "\n\n"
        _write(page, text + _other_vmms(wanted, progress))
        _write_generated(wanted.output)
        return 0
    chosen = _guests(wanted.guest)
    host.require(wanted.memory, wanted.jobs)
    wanted.db.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pvhdbg-conformance-") as folder, created(str(wanted.db)) as store:
        sweeper = Sweeper(store, Path(folder), wanted.jobs, progress, wanted.resume)
        found = _look(wanted, sweeper, progress)
        setups = [setup for one in found for setup in one.setups]
        progress.begin("booted", len(setups) * len(chosen) * len(set(wanted.memory)) * len(set(wanted.modules)))
        everything = sweeper.boots(setups, chosen, wanted.memory, wanted.modules, boots.TIMEOUT)
    page = wanted.output / "conformance.md"
    text = table.render(everything, found) + ("" if wanted.no_vmms else _other_vmms(wanted, progress))
    _tell_lost(page, text, progress)
    _write(page, text)
    _write_generated(wanted.output)
    return _conclusion(everything, page, progress)


def _other_vmms(wanted: argparse.Namespace, progress: Progress) -> str:
    """The part of the page about the other VMMs."""
    with tempfile.TemporaryDirectory(prefix="pvhdbg-initrds-") as folder:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(b"Z" * 8193)
        return vmms.section(vmms.probed(wanted.xen, initrd, progress))


def _look(wanted: argparse.Namespace, sweeper: Sweeper, progress: Progress) -> list[Found]:
    """The setups of each QEMU. Raises BadInput for a QEMU without any, and for two of one version, which the table cannot separate."""
    everything: list[Found] = []
    versions: dict[str, str] = {}
    for qemu in dict.fromkeys(wanted.qemu or [DEFAULT_QEMU]):
        progress.begin("looked")
        progress.line(f"{qemu}: searching for machines and firmwares that make a hand-off")
        found = matrix.find(
            qemu,
            wanted.machine,
            lambda setups: sweeper.boots(setups, [matrix.PROBE], matrix.MEMORY[:1], [0], matrix.PROBE_TIMEOUT),
        )
        if not found.setups:
            raise BadInput(f"{qemu} makes no hand-off on any of {' '.join(wanted.machine)}", "choose other machines with --machine")
        if found.version in versions:
            what = f"{qemu} and {versions[found.version]} are both of version {found.version}"
            raise BadInput(what, "give only one of them, or run once for each with another --output")
        versions[found.version] = qemu
        kinds = ", ".join(f"{setup.machine} ({setup.firmware})" for setup in found.setups)
        progress.line(f"{qemu} is {found.version} and hands over on: {kinds}")
        everything.append(found)
    return everything


def _guests(names: Sequence[str]) -> list[str]:
    for name in names:
        guests.path(name)
    chosen = sorted(names) or guests.names()
    if matrix.PROBE not in guests.names():
        raise BadInput(f"there is no sample guest {matrix.PROBE}", "build them with: make guests")
    return chosen


def _tell_lost(page: Path, text: str, progress: Progress) -> None:
    try:
        before = table.programs(page.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    lost = before - table.programs(text)
    if lost:
        progress.line(f"note: {page} also had {', '.join(sorted(lost))}; give all QEMUs in one run to keep them")


def _conclusion(everything: Sequence[Boot], page: Path, progress: Progress) -> int:
    progress.line(f"written: {page}, rules.md and vmms.md")
    dead = sum(1 for boot in everything if boot.failure)
    if dead:
        progress.line(f"{dead} boots made no hand-off; the page's last part lists them")
        return 3
    unrecorded = table.unrecorded(everything)
    if unrecorded:
        progress.line(f"failed and not on record: {', '.join(unrecorded)}")
        return 1
    return 0


def _write_generated(folder: Path) -> None:
    """The pages that follow from declarations alone."""
    _write(folder / "rules.md", rules_page.render())
    _write(folder / "vmms.md", vmms_page.render())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--qemu", action="append", metavar="PATH", help=f"a QEMU; more than once to compare (default: {DEFAULT_QEMU})"
    )
    parser.add_argument(
        "-j", "--jobs", type=_count, default=os.cpu_count() or 1, metavar="N", help="boots at a time (default: CPUs)"
    )
    parser.add_argument("--machine", nargs="+", metavar="TYPE", default=matrix.MACHINES, help="machine types, with their options")
    parser.add_argument("--memory", nargs="+", type=_memory, metavar="SIZE", default=matrix.MEMORY, help="memory sizes, as 256M 5G")
    parser.add_argument(
        "--modules", nargs="+", type=_size, metavar="BYTES", default=matrix.MODULES, help="sizes of initrds, 0 is none"
    )
    parser.add_argument("--guest", nargs="+", metavar="NAME", default=(), help="sample guests (default: all)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=DOCS, help="where the pages go (default: docs)")
    parser.add_argument(
        "--db", type=Path, metavar="FILE", default=DB, help="the file of the sweeps (default: build/conformance.db)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the sweeps in that file, and boot nothing twice")
    parser.add_argument(
        "--xen", action="append", type=Path, metavar="IMAGE", default=[], help="a Xen; more than once for several versions"
    )
    parser.add_argument("--no-vmms", action="store_true", help="leave that part out")
    parser.add_argument("--vmms-only", action="store_true", help="write the part about the VMMs that are not QEMU's emulation anew")
    parser.add_argument("--rules-only", action="store_true", help="write rules.md and vmms.md, and boot nothing")
    return parser


def _count(text: str) -> int:
    return _within(text, 1, 1024)


def _size(text: str) -> int:
    return _within(text, 0, 1 << 30)


def _within(text: str, least: int, most: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return number


def _memory(text: str) -> str:
    try:
        host.size_of(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.todo}") from None
    return text


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
