"""Run the targets for a time, in processes side by side, and write the figures into docs/reliability.

Exit codes: 0 nothing was found · 1 there are findings, each an input in build/fuzz with a text about it · 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz import figures, targets

_MORE = 60.0  # seconds that a target may take longer than its time: it starts, and its findings are made small
_SESSIONS = 4  # workers of a target of sessions


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
    parser.add_argument(
        "--more", type=float, default=_MORE, help=f"seconds after which a target that does not end hangs (default: {_MORE:.0f})"
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
    """What one target came to. Sessions wait for their peers most of their time, so several run at once."""
    at_once = _SESSIONS if targets.load(name).sockets else 1
    with ThreadPoolExecutor(at_once) as pool:
        workers = list(pool.map(lambda seed: _worker(name, seconds, seed, wanted), range(wanted.seed, wanted.seed + at_once)))
    found = {**workers[0], "inputs": sum(worker["inputs"] for worker in workers)}
    found["findings"] = list(dict.fromkeys(finding for worker in workers for finding in worker["findings"]))
    rate = found["inputs"] / max(found["seconds"], 0.1)
    print(f"{name:20} {found['inputs']:>10,} inputs  {rate:>8,.0f}/s  {len(found['findings'])} findings")
    for finding in found["findings"]:
        print(f"  {finding}")
    sys.stdout.flush()
    return found


def _worker(name: str, seconds: float, seed: int, wanted: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, "-X", "faulthandler", "-m", "fuzz.worker", name, "--seconds", str(seconds), "--seed", str(seed)]
    words += ["--findings", str(wanted.findings), *(["--plain"] if wanted.plain else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, errors="replace") as process:
        try:
            out, err = process.communicate(timeout=seconds + wanted.more)
            said = f"it ended with {process.returncode}: {err[-500:]}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it tells where it is
            out, err = process.communicate()
            said = f"it hangs (--seed {seed}): {err[-3000:]}"
    lines = [line for line in out.splitlines() if line.startswith('{"target"')]
    if lines:
        told: dict[str, Any] = json.loads(lines[-1])
        return told
    return {"target": name, "engine": "unknown", "inputs": 0, "seconds": seconds, "findings": [said]}


if __name__ == "__main__":
    sys.exit(main())
