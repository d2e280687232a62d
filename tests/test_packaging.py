"""The source distribution and the wheel: built once, then installed in a clean venv, where each interface of pvhdbg is used."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.commands.table import COMMANDS
from pvhdbg.tracing.recorder.flags import FLAGS
from pvhdbg.version import VERSION
from scripts.long_description import long_description
from tests.support.cli_runner import HELLO, ROOT, scratch

DEPENDENCIES = sysconfig.get_paths()["purelib"]
LATEST = 120  # seconds for one program
X86 = platform.machine() == "x86_64"
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
        build = (sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "-o", folder / "dist")
        ran(*build, source)
        if X86:
            ran(*build, "--wheel", source, PVHDBG_PURE="1")
        yield folder / "dist"


def wheel_for(built: Path, tag: str) -> Path:
    (wheel,) = built.glob(f"*-py3-none-{tag}.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A clean venv with the wheel, and the packages that it depends on from where the tests have them; or the one of scripts/test-pythons.sh."""
    if "PVHDBG_INSTALLED" in os.environ:
        yield Path(os.environ["PVHDBG_INSTALLED"])
        return
    built: Path = request.getfixturevalue("built")
    with scratch() as folder:
        ran(sys.executable, "-m", "venv", "--without-pip", folder)
        wheel = wheel_for(built, "manylinux_2_*_x86_64" if X86 else "any")
        ran(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q", "--no-deps", "--no-index", wheel)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "zz-dependencies.pth").write_text(f"{DEPENDENCIES}\n")
        yield folder


@pytest.mark.slow
def test_what_is_uploaded_is_sound(built: Path) -> None:
    assert sorted(path.suffix for path in built.iterdir()) == [".gz", ".whl", ".whl"][: 3 if X86 else 2]
    ran(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
    with zipfile.ZipFile(wheel_for(built, "any")) as wheel:
        names = wheel.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = wheel.read(about).decode()
    assert not any(name.endswith(".so") for name in names)
    head, _, shown = text.partition("\n\n")
    assert "\nDescription-Content-Type: text/markdown\n" in head
    assert shown.startswith("# pvhdbg\n")
    assert all("://" in target for target in re.findall(r"\]\(([^)]+)\)", shown))


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the wheel of other machines carries no recorder")
def test_the_wheel_with_the_recorder_runs_where_its_name_says(built: Path) -> None:
    """auditwheel reads which glibc the recorder needs: it may not be a newer one than the wheel's name promises."""
    wheel = wheel_for(built, "manylinux_2_*_x86_64")
    said = " ".join(ran(sys.executable, "-m", "auditwheel", "show", wheel).split())
    found = re.search(r'consistent with the following platform tag: "manylinux_2_(\d+)_x86_64"', said)
    promised = re.search(r"manylinux_2_(\d+)_x86_64", wheel.name)
    assert found is not None, said
    assert promised is not None
    assert int(found[1]) == int(promised[1])


def test_links_of_the_description_lead_somewhere() -> None:
    plain = long_description(README, "")
    assert "![" not in plain
    assert [target for target in re.findall(r"\]\(([^)]+)\)", plain) if "://" not in target] == []
    assert "start here" in plain
    with_site = long_description(README, "https://docs.invalid/pvhdbg/")
    for page, anchor in re.findall(r"\]\(https://docs\.invalid/pvhdbg/([\w-]+)\.html(#[\w-]+)?\)", with_site):
        source = ROOT / "docs" / f"{page}.md"
        assert source.exists()
        assert not anchor or anchor[1:] in re.sub(r"[^\w\n# -]", "", source.read_text(encoding="utf-8").lower()).replace(" ", "-")
    for picture in re.findall(r"!\[[^]]*\]\(https://docs\.invalid/pvhdbg/([\w.-]+)\)", with_site):
        assert (ROOT / "docs" / "images" / picture).exists()
    assert with_site.count("https://docs.invalid/") > 20


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
@pytest.mark.skipif(not X86, reason="the wheel of other machines carries none")
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


@pytest.mark.slow
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
