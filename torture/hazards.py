"""Surroundings that nobody tests in: each command ends with a documented exit code, in words, and leaves nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cli_runner import HELLO, ROOT, Cli
from torture.rounds import CODES


def _closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for one in descriptors:
            os.close(one)

    return close


def _limit(which: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (most, most))


@dataclass(frozen=True)
class Hazard:
    """A command in its surroundings. `before` is done in its process before it begins."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None


HAZARDS = (
    Hazard("a full device", ("check", HELLO, "--report", "json=/dev/full")),
    Hazard("files of 4 KiB at most", ("snapshot", "save", HELLO, "-o", "{folder}/a.pvhsnap"), before=_limit(resource.RLIMIT_FSIZE, 4096)),
    Hazard("files of 4 KiB at most, unpacking", ("trace", HELLO, "--for", "2", "-o", "{folder}/a.jsonl"), before=_limit(resource.RLIMIT_FSIZE, 4096)),
    Hazard("a home that cannot be written", ("repl", HELLO, "--batch", "-ex", "regs"), {"HOME": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_STATE_HOME": "/proc"}),
    Hazard("no standard input", ("check", HELLO), before=_closed(0)),
    Hazard("no standard output", ("check", HELLO), before=_closed(1)),
    Hazard("no standard error", ("check", HELLO), before=_closed(2)),
    Hazard("no standard streams", ("check", HELLO), before=_closed(0, 1, 2)),
    Hazard("few descriptors", ("check", HELLO), before=_limit(resource.RLIMIT_NOFILE, 24)),
    Hazard("very few descriptors", ("check", HELLO), before=_limit(resource.RLIMIT_NOFILE, 8)),
    Hazard("little memory", ("check", HELLO), before=_limit(resource.RLIMIT_AS, 120_000_000)),
    Hazard("the C locale", ("check", HELLO), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Hazard("a missing folder for temporary files", ("check", HELLO), {"TMPDIR": "/nonexistent"}),
    Hazard("an odd file name", ("check", "{odd}", "--report", "json={folder}/r\n::error::x.json")),
    Hazard("an odd file name, through GDB", ("check", "{odd}", "--via", "gdb")),
)  # fmt: skip


def run(hazard: Hazard, cli: Cli) -> tuple[str, ...]:
    """What is wrong."""
    odd = cli.folder / "k |touch x;$(id) 'é,,\\.elf"
    odd.write_bytes(Path(HELLO).read_bytes())
    words = [word.replace("{folder}", str(cli.folder)).replace("{odd}", str(odd)) for word in hazard.words]
    ran = subprocess.run(
        [sys.executable, "-m", "pvhdbg", *words],
        env={**cli.env, "PYTHONPATH": str(ROOT), **hazard.environment},
        cwd=cli.folder,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=hazard.before,
    )
    said = ran.stderr.decode(errors="replace")
    wrong = [] if ran.returncode in CODES else [f"exit code {ran.returncode}: {said[-300:]}"]
    wrong += [f"{word!r} on standard error: {said[-300:]}" for word in ("Traceback", "internal error") if word in said]
    wrong += [f"{left} is left" for left in os.listdir(cli.tmp)]
    wrong += ["a shell command was run"] * (cli.folder / "x").exists()
    return tuple(wrong)
