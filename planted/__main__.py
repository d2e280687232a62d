"""Boot each planted death with each QEMU, and write docs/planted-deaths.md.

Exit codes: 0 each was named · 1 one was not · 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planted import deaths, judge, page
from planted.deaths import Planted
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.errors import PvhdbgError
from pvhdbg.vmm.qemu import version_of

Boot = Callable[..., Diagnosis]


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m planted", description=__doc__)
    parser.add_argument("--qemu", action="append", default=[], help="a QEMU to use; may be repeated (default: qemu-system-x86_64)")
    parser.add_argument("--linux", metavar="VMLINUX", help="a Linux with planted deaths (make test-planted-linux)")
    parser.add_argument("--only", help="only the deaths with this word in their name; the page is left as it is")
    wanted = parser.parse_args()
    qemus = wanted.qemu or ["qemu-system-x86_64"]
    rows: dict[tuple[str, str], list[str]] = {}
    with TemporaryDirectory(prefix="pp-") as name:
        for guest, one, boot in _plan(Path(name), wanted.linux):
            if wanted.only and wanted.only not in one.name:
                continue
            for qemu in qemus:
                said = _said(one, partial(boot, qemu=qemu))
                rows.setdefault((guest, one.cause), []).append(said)
                print(f"{guest}, {qemu}: {said or 'named'}", flush=True)
    versions = [version_of(one).split()[0] for one in qemus]
    if not wanted.only:
        page.PAGE.write_text(page.written(versions, rows))
    missed = sum(bool(cell) for cells in rows.values() for cell in cells)
    print(f"{len(rows)} deaths, {len(qemus)} QEMUs: {missed} not named")
    return 1 if missed else 0


def _plan(folder: Path, linux: str | None) -> Iterator[tuple[str, Planted, Boot]]:
    for one in deaths.CRASHERS:
        yield f"`crash={one.name}`", one, partial(judge.of_crashers, one)
    for one in deaths.SMALL:
        yield one.name, one, partial(judge.of_small, one, folder)
    if linux:
        for one in deaths.LINUX:
            yield f"`planted={one.name}`", one, partial(judge.of_linux, one, linux)


def _said(one: Planted, boot: Callable[[], Any]) -> str:
    try:
        return judge.wrong(one, boot())
    except PvhdbgError as error:
        return f"{error.what} ({error.todo})"


if __name__ == "__main__":
    sys.exit(main())
