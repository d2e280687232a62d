"""Watch healthy guests by `why`, which must accuse none, and write the table into docs/healthy.md.

Exit codes: 0 no guest was accused · 1 one was · 2 usage.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from healthy import page
from healthy.guests import linux, small
from healthy.watch import Watched, watch


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m healthy", description=__doc__)
    parser.add_argument(
        "--kernel", type=Path, action="append", default=[], help="a Linux, as ELF or bzImage, to boot; may be repeated"
    )
    parser.add_argument("--boots", type=int, default=1, help="of each Linux (default: 1)")
    parser.add_argument("--qemu", help="the QEMU to use (default: qemu-system-x86_64)")
    parser.add_argument("--for", dest="watched", type=float, default=5.0, help="how long a guest is watched that does not end")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no boot after that many (default: 3600)")
    parser.add_argument("--linux-only", action="store_true", help="leave the small guests out")
    parser.add_argument("--no-page", action="store_true", help="leave docs/healthy.md as it is")
    wanted = parser.parse_args()
    begun, rows = time.monotonic(), Counter[tuple[str, str, str]]()
    accused: list[Watched] = []
    said = subprocess.run([wanted.qemu or "qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    with TemporaryDirectory(prefix="ph-") as name:
        folder = Path(name)
        plan = [] if wanted.linux_only else [*small(folder)]
        plan += [linux(folder, kernel) for kernel in wanted.kernel * wanted.boots]
        for guest in plan:
            if time.monotonic() - begun > wanted.seconds:
                print("the time is up")
                break
            found = watch(guest, wanted.watched, **({"qemu": wanted.qemu} if wanted.qemu else {}))
            rows[found[:3]] += 1
            if found.wrong:
                accused.append(found)
            print(f"{found.guest}: {found.kind}, {found.cause}{' WRONG: ' + found.wrong if found.wrong else ''}", flush=True)
    if not wanted.no_page:
        page.add(
            said.split("(")[0].removeprefix("QEMU emulator version").strip(), rows, [f"{one.guest}: {one.wrong}" for one in accused]
        )
    print(f"{sum(rows.values())} boots, {len(accused)} accused")
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
