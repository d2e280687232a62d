"""What pyproject.toml cannot say: the manual pages are made of the commands' declarations, the flight recorder is compiled, and the README
gets links that work on a package index.

The wheel of x86-64 Linux (manylinux) carries the recorder, so that the user needs no compiler. Without a compiler, or with PVHDBG_PURE=1
in the environment, it is left out, the wheel is for every machine (py3-none-any), and pvhdbg builds the recorder on first use. The same
source and compiler make the same bytes: no path, time or build id gets into them.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MANUALS = Path("build", "man")  # relative to ROOT, as setuptools wants the names of files
RECORDER = Path("pvhdbg", "tracing", "recorder")
BUILT = "recorder-x86_64.so"


class BuildWithExtras(build_py):
    """Also writes the manual pages, which the wheel installs as share/man/man1, and compiles the recorder beside its source."""

    def run(self) -> None:
        super().run()
        sys.path.insert(0, str(ROOT))
        from scripts.write_manuals import write_manuals

        write_manuals(ROOT / MANUALS)
        if not self.editable_mode:  # there the source may change
            self._compile()

    def _compile(self) -> None:
        compiler = compiler_for_recorder()
        if compiler is None:
            return
        flags = runpy.run_path(str(ROOT / RECORDER / "flags.py"))["FLAGS"]
        target = (Path(self.build_lib) / RECORDER / BUILT).resolve()
        command = [compiler, *flags, "-s", "-Wl,--build-id=none", "-o", str(target), "recorder.c"]
        if subprocess.run(command, cwd=ROOT / RECORDER, check=False).returncode:
            self.warn("the recorder was not built: pvhdbg builds it on first use")
            target.unlink(missing_ok=True)


def compiler_for_recorder() -> str | None:
    """The C compiler, where the wheel gets the recorder."""
    if os.environ.get("PVHDBG_PURE") == "1" or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    return shutil.which("cc") or shutil.which("gcc")


class WithRecorder(Distribution):
    """The recorder is not an extension module of Python, and yet its wheel is for some machines only."""

    def has_ext_modules(self) -> bool:
        return compiler_for_recorder() is not None


class WheelForItsMachine(bdist_wheel):
    """A wheel with the recorder is for the machines that can load it: any Python, and a glibc that has all that it uses (PEP 600)."""

    def get_tag(self) -> tuple[str, str, str]:
        build = self.get_finalized_command("build_py").build_lib
        recorder = Path(build) / RECORDER / BUILT
        if self.root_is_pure or not recorder.exists():
            return "py3", "none", "any"
        minor = max(map(int, re.findall(rb"\0GLIBC_2\.(\d+)", recorder.read_bytes())), default=17)
        return "py3", "none", f"manylinux_2_{max(minor, 17)}_x86_64"  # 17: the oldest that pip knows by this name


def addresses() -> dict[str, str]:
    """The project's addresses, once it has any."""
    version = runpy.run_path(str(ROOT / "pvhdbg" / "version.py"))
    base: str = version["BASE_URL"]
    return {"Documentation": base} if base else {}


def description() -> str:
    sys.path.insert(0, str(ROOT))
    from scripts.long_description import long_description

    base: str = runpy.run_path(str(ROOT / "pvhdbg" / "version.py"))["BASE_URL"]
    return long_description((ROOT / "README.md").read_text(encoding="utf-8"), base)


def manuals() -> list[str]:
    sys.path.insert(0, str(ROOT))
    from scripts.write_manuals import file_names

    return [os.fspath(MANUALS / name) for name in file_names()]


setup(
    distclass=WithRecorder,
    cmdclass={"build_py": BuildWithExtras, "bdist_wheel": WheelForItsMachine},
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls=addresses(),
    data_files=[
        ("share/man/man1", manuals()),
        ("share/bash-completion/completions", ["pvhdbg/completions/pvhdbg"]),
        ("share/zsh/site-functions", ["pvhdbg/completions/_pvhdbg"]),
        ("share/fish/vendor_completions.d", ["pvhdbg/completions/pvhdbg.fish"]),
    ],
)
