"""Run the targets for a time, in processes side by side, and write the figures into docs/reliability.

Exit codes: 0 nothing was found · 1 there are findings, each an input in build/fuzz with a text about it · 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz import figures, targets

_MORE = 60.0  # seconds that a target may take longer than its time: it starts, and its findings are made small


def main() -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help="only these (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="for all of them together (default: 60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="to repeat a run (default: a random one)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain", action="store_true", help="do not use atheris, also where it is installed")
    parser.add_argument(
        "--findings", type=Path, default=Path("build/fuzz"), help="where findings are written (default: build/fuzz)"
    )
    parser.add_argument("--no-figures", action="store_true", help="leave docs/reliability as it is")
    wanted = parser.parse_args()
    if unknown := set(wanted.target) - set(targets.names()):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(targets.names())}")
    names = wanted.target or targets.names()
    share = wanted.seconds * wanted.jobs / len(names)
    print(f"seed {wanted.seed}: {len(names)} targets, {share:.1f} s each, {wanted.jobs} at once", flush=True)
    with ThreadPoolExecutor(wanted.jobs) as pool:
        results = list(pool.map(lambda name: _one(name, share, wanted), names))
    inputs = sum(result["inputs"] for result in results)
    findings = [finding for result in results for finding in result["findings"]]
    print(f"{inputs:,} inputs, {len(findings)} findings (repeat with --seed {wanted.seed})")
    if not wanted.no_figures:
        for result in results:
            numbers = {name: result[name] for name in ("inputs", "seconds")}
            figures.add("fuzz", result["target"], result["engine"], **numbers, findings=len(result["findings"]))
        figures.write_page()
    return 1 if findings else 0


def _one(name: str, seconds: float, wanted: argparse.Namespace) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "fuzz.worker",
        name,
        "--seconds",
        str(seconds),
        "--seed",
        str(wanted.seed),
        "--findings",
        str(wanted.findings),
    ]
    said = ""
    try:
        ran = subprocess.run(
            [*words, *(["--plain"] if wanted.plain else [])],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _MORE,
            check=False,
        )
        lines = [line for line in ran.stdout.splitlines() if line.startswith('{"target"')]
        said = f"it ended with {ran.returncode}: {ran.stderr[-500:]}"
    except subprocess.TimeoutExpired:
        lines, said = [], "it hangs"
    found: dict[str, Any] = (
        json.loads(lines[-1])
        if lines
        else {"target": name, "engine": "unknown", "inputs": 0, "seconds": seconds, "findings": [said]}
    )
    print(
        f"{name:20} {found['inputs']:>10,} inputs  {found['inputs'] / max(found['seconds'], 0.1):>8,.0f}/s  {len(found['findings'])} findings"
    )
    for finding in found["findings"]:
        print(f"  {finding}")
    sys.stdout.flush()
    return found


if __name__ == "__main__":
    sys.exit(main())
