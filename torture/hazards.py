"""Odd surroundings: each command ends with a documented exit code, in words, and leaves nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    says: str = ""  # a part of its message

    @property
    def full_disk(self) -> bool:
        """Whether it needs a disk of its own."""
        return any("{disk}" in word for word in (*self.words, *self.environment.values()))


class NotMounted(Exception):
    """The system refuses to mount a disk: the hazard is skipped."""


HAZARDS = (
    Hazard("a full device", ("check", HELLO, "--report", "json=/dev/full")),
    Hazard("files of 4 KiB at most", ("snapshot", "save", HELLO, "-o", "{folder}/a.pvhsnap"), before=_limit(resource.RLIMIT_FSIZE, 4096)),
    Hazard("files of 4 KiB at most, unpacking", ("trace", HELLO, "--for", "2", "-o", "{folder}/a.jsonl"), before=_limit(resource.RLIMIT_FSIZE, 4096)),
    Hazard("a full disk, for a snapshot", ("snapshot", "save", HELLO, "-o", "{disk}/a.pvhsnap")),
    Hazard("a full disk, for a trace", ("trace", HELLO, "--for", "2", "--what", "state", "-o", "{disk}/a.jsonl")),
    Hazard("a full disk, for temporary files", ("trace", HELLO, "--for", "2"), {"TMPDIR": "{disk}"}, says="is full, where its files are"),
    Hazard("a full disk, for the cache", ("why", HELLO, "--batch", "--for", "2"), {"XDG_CACHE_HOME": "{disk}"}),
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
    """What is wrong. Raises NotMounted."""
    odd = cli.folder / "k |touch x;$(id) 'é,,\\.elf"
    odd.write_bytes(Path(HELLO).read_bytes())
    if not hazard.full_disk:
        return _done(hazard, cli, {"folder": str(cli.folder), "odd": str(odd)})
    with _full_disk(cli.folder / "disk") as disk:
        wrong = _done(hazard, cli, {"folder": str(cli.folder), "odd": str(odd), "disk": str(disk)})
        # A file that the user named may be there in part, and an empty folder where a cache was wanted. Nothing else may.
        left = [path for path in disk.rglob("*") if path.is_file() and path.name != "filler" and not path.name.startswith("a.")]
        return (*wrong, *(f"{path.name} is left on the disk" for path in left))


def _done(hazard: Hazard, cli: Cli, places: Mapping[str, str]) -> tuple[str, ...]:
    def put(word: str) -> str:
        for name, place in places.items():
            word = word.replace(f"{{{name}}}", place)
        return word

    ran = subprocess.run(
        [sys.executable, "-m", "pvhdbg", *map(put, hazard.words)],
        env={**cli.env, "PYTHONPATH": str(ROOT), **{name: put(value) for name, value in hazard.environment.items()}},
        cwd=cli.folder,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=hazard.before,
    )
    said = ran.stderr.decode(errors="replace")
    wrong = [] if ran.returncode in CODES else [f"exit code {ran.returncode}: {said[-300:]}"]
    wrong += [f"{word!r} on standard error: {said[-300:]}" for word in ("Traceback", "internal error") if word in said]
    wrong += [f"{hazard.says!r} is not on standard error: {said[-300:]}"] * (hazard.says not in said)
    wrong += [f"{left} is left" for left in os.listdir(cli.tmp)]
    wrong += ["a shell command was run"] * (cli.folder / "x").exists()
    return tuple(wrong)


@contextmanager
def _full_disk(place: Path) -> Iterator[Path]:
    """A tmpfs of 1 MB at `place` with 4 KiB left. Raises NotMounted where the system refuses it."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "pvhdbg-torture", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise NotMounted(mounted.stderr.decode(errors="replace").strip())
    try:
        (place / "filler").write_bytes(bytes((1 << 20) - (4 << 10)))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
