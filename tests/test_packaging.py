"""The source distribution and the wheel: built once, then installed in a clean venv, where each interface of pvhdbg is used."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.commands.table import COMMANDS
from pvhdbg.tracing.recorder.flags import FLAGS
from pvhdbg.version import VERSION
from tests.support.cli_runner import HELLO, ROOT, scratch

DEPENDENCIES = sysconfig.get_paths()["purelib"]
LATEST = 120  # seconds for one program


def ran(*words: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """What a program prints; the test fails if it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=LATEST, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """A folder with the distributions; the wheel is built from the source distribution."""
    with scratch() as folder:
        source = folder / "source"
        unwanted = shutil.ignore_patterns(".git", ".venv", ".*_cache", "build", "__pycache__", "*.egg-info", ".hypothesis")
        shutil.copytree(ROOT, source, ignore=unwanted, symlinks=True)
        ran(sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "-o", folder / "dist", source)
        yield folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path) -> Iterator[Path]:
    """A clean venv with the wheel, and the packages that it depends on from where the tests have them."""
    with scratch() as folder:
        ran(sys.executable, "-m", "venv", "--without-pip", folder)
        (wheel,) = built.glob("*.whl")
        ran(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q", "--no-deps", "--no-index", wheel)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "zz-dependencies.pth").write_text(f"{DEPENDENCIES}\n")
        yield folder


@pytest.mark.slow
def test_what_is_uploaded_is_sound(built: Path) -> None:
    assert {path.suffix for path in built.iterdir()} == {".whl", ".gz"}
    ran(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


@pytest.mark.slow
def test_the_tests_of_the_source_distribution_run(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
        file.extractall(tmp_path, filter="data") if sys.version_info >= (3, 12) else file.extractall(tmp_path)
    wanted = {str(path.relative_to(ROOT)) for room in ("tests", "docs", "sample_guests", "scripts") for path in (ROOT / room).rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert wanted - names == set()
    (source,) = tmp_path.iterdir()
    out = ran(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/rsp",
        "tests/test_layout.py",
        cwd=source,
        PYTHONPATH=str(source),
    )
    assert " passed" in out


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel of other machines carries none")
def test_the_wheel_carries_the_recorder(built: Path, installed: Path, tmp_path: Path) -> None:
    """It is used without a compiler, and compiling the same source in another folder makes the same bytes."""
    script = "from pvhdbg.tracing.recorder.library import library; print(library())"
    path = Path(ran(installed / "bin" / "python", "-c", script, cwd=tmp_path, PATH="", XDG_CACHE_HOME="/nonexistent").strip())
    assert path.is_relative_to(installed)
    shutil.copy(path.with_name("recorder.c"), tmp_path)
    ran("cc", *FLAGS, "-s", "-Wl,--build-id=none", "-o", "again.so", "recorder.c", cwd=tmp_path)
    assert (tmp_path / "again.so").read_bytes() == path.read_bytes()
    (about,) = installed.glob("lib/python*/site-packages/pvhdbg-*.dist-info/METADATA")
    assert "License-Expression: MIT AND GPL-2.0-or-later\n" in about.read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in (about.parent / "licenses/pvhdbg/tracing/recorder/COPYING").read_text()


@pytest.mark.boot
def test_the_command_line_and_python(installed: Path) -> None:
    program = installed / "bin" / "pvhdbg"
    assert ran(program, "--version") == f"pvhdbg {VERSION}\n"
    assert "conforms" in ran(program, "check", HELLO)
    script = "import pvhdbg; print(pvhdbg.__file__, pvhdbg.__version__, pvhdbg.check(pvhdbg.guests.path('hello')).exit_code)"
    script = script.replace("import pvhdbg;", "import pvhdbg, pvhdbg.guests;")
    path, version, code = ran(installed / "bin" / "python", "-c", script, cwd=installed).split()
    assert Path(path).is_relative_to(installed)
    assert (version, code) == (VERSION, "0")


@pytest.mark.boot
def test_the_pytest_plugin(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_boot.py").write_text("def test_it(pvh_boot):\n    pvh_boot().assert_conforms()\n")
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--pvh-kernel={HELLO}", "-o", "addopts=", tmp_path)
    assert "1 passed" in ran(installed / "bin" / "python", *words, cwd=tmp_path)


@pytest.mark.gdb
def test_the_script_for_gdb(installed: Path) -> None:
    path = ran(installed / "bin" / "pvhdbg", "gdb-path").strip()
    assert Path(path).is_relative_to(installed)
    left = f"python print({str(Path(path).parents[2])!r} in sys.path)"
    out = ran("gdb", "-nx", "-batch", "-ex", f"source {path}", "-ex", "pvh explain PVH-CR0-PE", "-ex", left)
    assert "cr0.PE is set" in out
    assert out.endswith("False\n")


def test_completion_and_manual_pages(installed: Path) -> None:
    for place in ("bash-completion/completions/pvhdbg", "zsh/site-functions/_pvhdbg", "fish/vendor_completions.d/pvhdbg.fish"):
        assert "completion --words" in (installed / "share" / place).read_text()
    assert ran(installed / "bin" / "pvhdbg", "completion", "--words", "--", "chec").startswith("check\t")
    pages = {path.name: path for path in (installed / "share" / "man" / "man1").iterdir()}
    assert pages.keys() == {"pvhdbg.1", *(f"pvhdbg-{command.name.replace(' ', '-')}.1" for command in COMMANDS)}
    assert "\\-\\-strict" in pages["pvhdbg-check.1"].read_text(encoding="utf-8")
    if shutil.which("man") is not None:
        page = ran("man", "-l", pages["pvhdbg-check.1"], MANWIDTH="80", LC_ALL="C.UTF-8", MANPAGER="cat")
        assert "pvhdbg-check" in page
        assert "--strict" in page
