"""Kill pvhdbg and what it starts at random moments, run it in odd surroundings, and write the figures into docs/reliability.

Exit codes: 0 nothing was left and no guest altered · 1 something was · 2 usage.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz import figures
from pvhdbg.decode.qemu_monitor import version
from tests.support.cli_runner import Cli
from torture import guest, hazards, rounds, two_sessions


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="with kills (default: 100)")
    parser.add_argument("--pairs", type=int, default=0, help="with two signals within 150 ms, attached (default: 0)")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no round after that many (default: 3600)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="to repeat a run (default: a random one)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-hazards", action="store_true", help="kills only")
    parser.add_argument("--no-figures", action="store_true", help="leave docs/reliability as it is")
    wanted = parser.parse_args()
    random = Random(wanted.seed)
    plans = [rounds.plan(random) for _ in range(wanted.rounds)] + [rounds.pair(random) for _ in range(wanted.pairs)]
    print(f"seed {wanted.seed}: {len(plans)} rounds, {wanted.jobs} at once", flush=True)
    begun = time.monotonic()
    sums: dict[str, list[float]] = {}
    with TemporaryDirectory(prefix="pt-") as folder, ThreadPoolExecutor(wanted.jobs) as pool:
        kernel = guest.write(Path(folder), 3_000_000)

        def one(numbered: tuple[int, rounds.Plan]) -> None:
            number, plan = numbered
            if time.monotonic() - begun > wanted.seconds:
                return
            since = time.monotonic()
            try:
                result = rounds.run(plan, kernel)
            except (OSError, RuntimeError) as error:
                result = rounds.Result(0, (f"the round was not done: {error}",))
            _tell(f"round {number}: {plan}", result.wrong)
            row = sums.setdefault(plan.kind, [0, 0, 0, 0])
            for at, value in enumerate((1, result.kills, time.monotonic() - since, bool(result.wrong))):
                row[at] += value

        list(pool.map(one, enumerate(plans)))
    for hazard in () if wanted.no_hazards else hazards.HAZARDS:
        with TemporaryDirectory(prefix="pt-") as folder:
            try:
                wrong = hazards.run(hazard, Cli(Path(folder)))
            except hazards.NotMounted as error:
                print(f"{hazard.name}: skipped: {error}", flush=True)
                continue
        _tell(hazard.name, wrong)
        row = sums.setdefault("odd surroundings", [0, 0, 0, 0])
        row[0], row[3] = row[0] + 1, row[3] + bool(wrong)
    for words in () if wanted.no_hazards else two_sessions.SECOND:
        since = time.monotonic()
        with TemporaryDirectory(prefix="pt-") as folder:
            wrong = two_sessions.run(words, Path(folder))
        _tell(f"two sessions, the second one: {words}", wrong)
        row = sums.setdefault("two sessions at once", [0, 0, 0, 0])
        for at, value in ((0, 1), (2, time.monotonic() - since), (3, bool(wrong))):
            row[at] += value
    done, kills, failures = (int(sum(row[at] for row in sums.values())) for at in (0, 1, 3))
    print(
        f"{done} rounds, {kills} kills, {failures} failures in {time.monotonic() - begun:.0f} s (repeat with --seed {wanted.seed})"
    )
    if not wanted.no_figures:
        said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
        on = f"QEMU {version(said.removeprefix('QEMU emulator version '))}"
        for kind, row in sums.items():
            figures.add("torture", kind, on, **dict(zip(("rounds", "kills", "seconds", "failures"), row, strict=True)))
        figures.write_page()
    return 1 if failures else 0


def _tell(name: str, wrong: tuple[str, ...]) -> None:
    for one in wrong:
        print(f"{name}\n  {one}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
