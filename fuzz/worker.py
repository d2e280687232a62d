"""One target in a process of its own: inputs until the time is over, and one line of JSON about them on standard output."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz import targets
from fuzz.corpus import files
from fuzz.minimise import minimised
from fuzz.mutate import Mutator
from fuzz.oracle import Failure, Finding, Oracle
from fuzz.target import BOUND, Target

_SLOWER = 6.0  # by how much coverage may slow a reader
_FINDINGS = 20  # of one target, after which it ends


class Campaign:
    """Counts the inputs of one target, and writes findings down: one input for each reason."""

    def __init__(self, name: str, oracle: Oracle, folder: Path) -> None:
        self._name, self._oracle, self._folder = name, oracle, folder
        self._begun = time.monotonic()
        self._seen: set[tuple[Failure, str]] = set()
        self.inputs = 0
        self.findings: list[str] = []

    def feed(self, data: bytes) -> None:
        """Give one input to the reader."""
        self.inputs += 1
        found = self._oracle.check(data)
        if found is not None and (found.kind, found.where) not in self._seen and len(self.findings) < _FINDINGS:
            self._seen.add((found.kind, found.where))
            self._write(data, found)

    def _write(self, data: bytes, found: Finding) -> None:
        small = minimised(self._oracle, data, found)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}-{hashlib.sha256(small).hexdigest()[:12]}"
        path.write_bytes(small)
        path.with_suffix(".txt").write_text(
            f"{found.kind.value} {found.where}\n{found.what}\n", encoding="utf-8", errors="backslashreplace"
        )
        self.findings.append(f"{found.kind.value}: {found.where} ({path})")

    def told(self, engine: str) -> str:
        """What there is to tell at the end."""
        seconds = time.monotonic() - self._begun
        return json.dumps(
            {"target": self._name, "engine": engine, "inputs": self.inputs, "seconds": seconds, "findings": self.findings}
        )


def main() -> int:
    """Run one target."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.worker", description=__doc__)
    parser.add_argument("target", choices=targets.names())
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="do not use atheris")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    wanted = parser.parse_args()
    guided = None if wanted.plain else _atheris()
    if guided is None:
        target = targets.load(wanted.target)
        campaign = Campaign(wanted.target, Oracle(target), wanted.findings)
        _plainly(target, campaign, wanted.target, wanted.seed, wanted.seconds)
        print(campaign.told("plain"))
        return 0
    version, instrumented, fuzz = guided
    target = instrumented(lambda: targets.load(wanted.target))
    campaign = Campaign(wanted.target, Oracle(target, _SLOWER), wanted.findings)
    deadline = time.monotonic() + wanted.seconds

    def one(data: bytes) -> None:
        campaign.feed(data)
        if time.monotonic() > deadline:
            print(campaign.told(version), flush=True)
            os._exit(0)  # libFuzzer's own end would print more

    with tempfile.TemporaryDirectory(prefix="pvhdbg-fuzz-") as folder:
        for index, seed in enumerate(_seeds(target, wanted.target)):
            Path(folder, f"{index:04}").write_bytes(seed)
        words = Path(folder, "words")
        words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words if word))
        fuzz(
            [
                sys.argv[0],
                f"-seed={wanted.seed}",
                f"-max_len={BOUND}",
                "-timeout=300",
                "-rss_limit_mb=0",
                f"-dict={words}",
                "-verbosity=0",
                folder,
            ],
            one,
        )
    return 0


def _seeds(target: Target, name: str) -> list[bytes]:
    return [*target.seeds(), *(path.read_bytes() for path in files(name))]


def _plainly(target: Target, campaign: Campaign, name: str, seed: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    seeds = _seeds(target, name)
    for data in seeds:
        if time.monotonic() < deadline:
            campaign.feed(data)
    mutator = Mutator(Random(seed), seeds, target.words)
    while time.monotonic() < deadline:
        campaign.feed(mutator.input())


def _atheris() -> tuple[str, Callable[[Callable[[], Target]], Target], Callable[[list[str], Callable[[bytes], None]], None]] | None:
    """Its version, what imports a target with coverage, and what runs it; None where it is not installed."""
    try:
        from importlib.metadata import version

        import atheris
    except ImportError:
        return None

    def instrumented(load: Callable[[], Target]) -> Target:
        hook = atheris.instrument_imports(include=["pvhdbg"])
        hook.__enter__()  # and never left: much is imported when it is used
        return load()

    def fuzz(words: list[str], one: Callable[[bytes], None]) -> None:
        atheris.Setup(words, one)
        atheris.Fuzz()

    return f"atheris {version('atheris')}", instrumented, fuzz


if __name__ == "__main__":
    sys.exit(main())
