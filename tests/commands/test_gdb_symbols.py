"""What GDB gets of a stripped Linux: the kernel's own names, at both addresses, wherever the kernel lies."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from pvhdbg.commands.gdb import symbol_commands
from pvhdbg.kernel.image import open_kernel
from pvhdbg.kernel.symbol_cache import folder, symbols_of
from tests.support.prompt import talking

WRAP = (1 << 64) - 1


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder() == str(tmp_path / "cache" / "pvhdbg" / "symbols")
    return Path(folder())


def asked(commands: list[str], *questions: str) -> str:
    words = [word for command in (*commands, *questions) for word in ("-ex", command)]
    return subprocess.run(["gdb", "-nx", "-q", "-batch", *words], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.gdb
@pytest.mark.parametrize(("moved", "slid"), [(0, 0), (0x2A00000, 0x1E000000), (0x600000, 0)])
def test_gdb_names_a_stripped_linux_where_it_lies(vmlinuz: Path, moved: int, slid: int) -> None:
    with open_kernel(str(vmlinuz)) as image:
        virtual = image.symbols().virtual_address("start_kernel") + slid & WRAP
        physical = image.symbols().physical_address("start_kernel") + moved
        told = asked(symbol_commands(image, False, moved, slid), f"info symbol {virtual + 4:#x}", f"info symbol {physical + 4:#x}")
    assert len(re.findall(r"^start_kernel \+ 4 in section \.text", told, re.MULTILINE)) == 2


def test_the_file_is_made_once_and_the_oldest_are_forgotten(vmlinux: Path, cache: Path) -> None:
    with open_kernel(str(vmlinux)) as image:
        path = Path(symbols_of(image))
        made = path.stat()
        assert made.st_mode & 0o777 == 0o600
        assert symbols_of(image) == str(path)
        assert path.stat().st_ino == made.st_ino
        path.unlink()
        for number in range(9):
            other = cache / f"{number}.symbols"
            other.write_bytes(b"")
            os.utime(other, (number, number))
        (cache / "somebody's").write_bytes(b"")
        symbols_of(image)
    assert {one.name for one in cache.iterdir()} == {path.name, "somebody's", *(f"{number}.symbols" for number in range(2, 9))}


@pytest.mark.gdb
def test_a_cache_that_cannot_be_written_is_said(vmlinux: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with open_kernel(str(vmlinux)) as image:
        commands = symbol_commands(image)
    assert len(commands) == 1
    assert "pvh: the kernel's own symbols cannot be written to a file for GDB: Not a directory" in asked(commands)


def test_what_a_killed_one_left_is_removed_and_what_another_writes_now_is_not(vmlinux: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, changed in (("1.symbols.11", 1.0), ("2.symbols.22", time.time())):
        (cache / name).write_bytes(b"")
        os.utime(cache / name, (changed, changed))
    with open_kernel(str(vmlinux)) as image:
        path = Path(symbols_of(image))
    assert {one.name for one in cache.iterdir()} == {path.name, "2.symbols.22"}


def test_a_file_that_another_could_have_put_there_is_not_given_to_gdb(vmlinux: Path, cache: Path) -> None:
    with open_kernel(str(vmlinux)) as image:
        symbols_of(image)
        cache.chmod(0o777)
        commands = symbol_commands(image)
    assert len(commands) == 1
    assert commands[0].startswith("echo pvh: the kernel's own symbols cannot be written to a file for GDB: others may write to ")


@pytest.mark.boot
def test_a_backtrace_at_the_prompt_has_the_kernels_names(vmlinux: Path) -> None:
    with talking(str(vmlinux)) as one:
        one("until start_kernel")
        one.written.clear()
        one("bt")
        one("info symbol $pc")
    shown = "".join(one.written)
    assert re.search(r"#0 +0xffffffff8\w+ in start_kernel \(\)", shown)
    assert "start_kernel in section .text of " in shown


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a folder for another user")
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_not_in_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, vmlinuz: Path) -> None:
    """Root with somebody's HOME, as sudo leaves it: who owns the folder could put symbols there that GDB would load."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = Path(folder())
    place.mkdir(parents=True, mode=0o700)
    os.chown([place, *place.parents][depth], 12345, 12345)
    with open_kernel(str(vmlinuz)) as image, pytest.raises(PermissionError):
        symbols_of(image)
