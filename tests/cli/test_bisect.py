"""`check --bisect` under a real `git bisect run`, and what each way to end means to git."""

import os
import struct
import subprocess
import sys

import pytest

from pvhdbg.cli.bisecting import exit_code
from pvhdbg.errors import BadInput, EntryNotReached, GuestDied, NotBootable, TargetTimeout, VmmFailed
from tests.support.cli_runner import Cli
from tests.support.elf_writer import ENTRY, SymbolSpec, build_elf
from tests.support.programs import need

READY = SymbolSpec("ready", ENTRY + 0x20)
TRIPLE_FAULT = b"\x0f\x01\x1d" + struct.pack("<I", ENTRY + 0x40) + b"\xcc"  # lidt with limit 0; int3
LIVES = b"\x90" * 32 + b"\xeb\xfe"
UNTIL_READY = ("--until", "ready")
DIES = TRIPLE_FAULT.ljust(32, b"\x90") + b"\xeb\xfe"


def guest(code: bytes, mark: int = 0) -> bytes:
    """A guest whose code loops at the symbol `ready`, if it comes there; `mark` makes each another file."""
    return build_elf(code=code.ljust(80, b"\0") + bytes([mark]), symbols=(READY,))


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (0, None, 0),
        (1, None, 1),
        (1, NotBootable("no note"), 1),
        (3, GuestDied("a triple fault"), 1),
        (2, BadInput("no such file"), 125),
        (3, VmmFailed("no QEMU"), 125),
        (3, TargetTimeout("slow"), 125),
        (3, EntryNotReached("not within 30 s"), 125),
        (4, None, 125),
        (70, None, 125),
    ],
)
def test_codes(code: int, error: NotBootable | None, told: int) -> None:
    assert exit_code(code, error) == told


@pytest.mark.boot
def test_each_end_of_a_check(cli: Cli) -> None:
    dies = cli.file("dies.elf", guest(DIES))
    cli("check", cli.file("lives.elf", guest(LIVES)), "--bisect").ok(0)
    cli("check", dies, "--entry", "ready").complaint(3, "before it reached")
    cli("check", dies, "--entry", "ready", "--bisect").complaint(1, "before it reached")
    cli("check", cli.file("no.elf", build_elf(notes=())), "--bisect").complaint(1, "no usable PVH entry")
    cli("check", "nowhere.elf").complaint(2, "neither a file nor an address")
    for words in (
        ("nowhere.elf",),
        (dies, "--qemu", "no-such-qemu"),
        (dies, "--nonsense"),
        (dies, "--output", "no/such/folder/file"),
    ):
        cli("check", *words, "--bisect").ok(125)
    cli("check", dies, "--", "--bisect").complaint(3)  # that is a word for QEMU, which does not know it


@pytest.mark.boot
def test_git_bisect_run_finds_the_commit(cli: Cli) -> None:
    need("git")
    repository = cli.folder / "guests"
    repository.mkdir()
    environment = {
        **cli.env,
        **{f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }

    def git(*words: str) -> str:
        ran = subprocess.run(["git", *words], cwd=repository, env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    git("init", "-q")
    culprit, broken = 6, 4  # the commit in the middle, which git tries first, cannot be tested
    hashes = []
    for index in range(9):
        kernel = b"not built" if index == broken else guest(DIES if index >= culprit else LIVES, index)
        (repository / "guest.elf").write_bytes(kernel)
        git("add", "guest.elf")
        git("commit", "-q", "-m", f"change {index}")
        hashes.append(git("rev-parse", "HEAD").strip())
    git("bisect", "start", hashes[-1], hashes[0])
    told = git("bisect", "run", sys.executable, "-m", "pvhdbg", "check", "guest.elf", "--bisect", *UNTIL_READY)
    log = git("bisect", "log")
    assert f"# skip: [{hashes[broken]}]" in log
    assert f"# first bad commit: [{hashes[culprit]}] change {culprit}" in log
    assert f"{hashes[culprit]} is the first bad commit" in told
