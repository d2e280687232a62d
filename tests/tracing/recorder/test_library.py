"""Where the recorder's shared object comes from, and the message where it cannot be made."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from pvhdbg.tracing.recorder import library as module
from pvhdbg.tracing.recorder.flags import FLAGS
from pvhdbg.tracing.recorder.library import NoRecorder, library, need_room
from tests.support.cli_runner import HELLO, Cli

SOURCE = Path(module.__file__).with_name("recorder.c")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_built_once(cache: Path) -> None:
    said: list[str] = []
    first = library(said.append)
    assert library(said.append) == first
    assert said == ["building the recorder, once"]
    assert os.stat(first).st_mode & 0o777 == 0o500
    assert os.listdir(cache / "pvhdbg" / "recorder") == [os.path.basename(first)]


def test_a_compiler_that_fails_is_quoted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcc itself, that is told to include a header which is not there."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nexec /usr/bin/gcc -include nowhere.h "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NoRecorder, match=r"does not build the recorder: .*nowhere\.h: No such file or directory"):
        library()
    assert os.listdir(cache / "pvhdbg" / "recorder") == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NoRecorder, match="needs a C compiler") as caught:
        library()
    assert caught.value.todo == "install one (Debian: gcc and libc6-dev)"


def test_a_cache_of_another_user_is_refused(cache: Path) -> None:
    folder = cache / "pvhdbg" / "recorder"
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        folder.chmod(0o777)
    with pytest.raises(NoRecorder, match="the recorder cannot be cached: others may write to"):
        library()


def test_a_disk_without_room_is_told_before_qemu_is_started(tmp_path: Path) -> None:
    with pytest.raises(NoRecorder, match=r"a recording needs [\d,]+ MB, and .* has [\d,]+ MB left"):
        need_room(str(tmp_path), 1 << 60)
    with pytest.raises(NoRecorder, match="cannot be used: No such file or directory"):
        need_room(str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("qemu")
def test_a_qemu_that_wants_another_api_runs_without_it(cli: Cli) -> None:
    """The recorder for the plugin API 99, which no QEMU has yet: QEMU refuses it, as a newer one refuses today's."""
    source = SOURCE.read_text()
    newer = re.sub(r"__attribute__\(\(constructor\)\) static void choose", "static void choose", source)
    newer = newer.replace("int qemu_plugin_version = 1;", "int qemu_plugin_version = 99;")
    (built,) = (cli.folder / "cache" / "pvhdbg" / "recorder").iterdir()
    built.chmod(0o700)
    subprocess.run(["gcc", "-w", *FLAGS, "-xc", "-", "-o", built], input=newer.encode(), check=True)
    done = cli("trace", HELLO, "--until", "halt").ok()
    assert (
        "without the flight recorder: qemu-system-x86_64 does not load the flight recorder: plugin requires API version 99"
        in done.err + done.out
    )
    assert "entry" in done.out
    cli("boot", HELLO, "-o", cli.folder / "x").complaint(3, "requires API version 99", "name a QEMU with plugins")
    cli.nothing_left()


@pytest.mark.usefixtures("qemu")
def test_the_prompt_runs_by_the_deterministic_clock_without_it(cli: Cli, tmp_path: Path) -> None:
    """No compiler and an empty cache: the prompt says what that means, and the machine is there."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    env = {"XDG_CACHE_HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    told = cli("repl", HELLO, "--deterministic", "--batch", "-ex", "until halt", env=env).ok().out
    assert "without the flight recorder each stop of the machine moves its clock" in told
    assert "does not build the recorder" in told
    assert "<halt>" in told


@pytest.mark.usefixtures("qemu")
def test_a_qemu_without_plugins_is_told(cli: Cli) -> None:
    """Debian's QEMU for microvm is built without them."""
    if not os.path.exists("/usr/bin/qemu-system-x86_64-microvm"):
        pytest.skip("only Debian has a QEMU without plugins")
    words = ("--qemu", "qemu-system-x86_64-microvm", "-M", "microvm")
    cli("boot", HELLO, "-o", cli.folder / "x", *words).complaint(
        3, "does not load the flight recorder: plugin interface not enabled"
    )


@pytest.mark.usefixtures("qemu")
def test_instructions_of_several_cpus_are_counted_too(cli: Cli) -> None:
    """Where QEMU has one inline counter for all CPUs, calls count."""
    several, one = (
        [
            line.split()
            for line in cli("trace", HELLO, *words, "--until", "halt").ok().out.splitlines()
            if "entry" in line or "halt" in line
        ]
        for words in (("--cpus", "2"), ())
    )
    assert several
    assert several[:-1] == one[:-1]
