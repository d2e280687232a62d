"""What pyproject.toml cannot say: the manual pages are made of the commands' declarations, and the flight recorder is compiled.

The wheel of x86-64 Linux carries the recorder, so that the user needs no compiler. Without a compiler it is left out, and pvhdbg builds it
on first use. The same source and compiler make the same bytes: no path, time or build id gets into them.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
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
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        flags = runpy.run_path(str(ROOT / RECORDER / "flags.py"))["FLAGS"]
        target = (Path(self.build_lib) / RECORDER / BUILT).resolve()
        command = [compiler, *flags, "-s", "-Wl,--build-id=none", "-o", str(target), "recorder.c"]
        if subprocess.run(command, cwd=ROOT / RECORDER, check=False).returncode:
            self.warn("the recorder was not built: pvhdbg builds it on first use")
            target.unlink(missing_ok=True)


def manuals() -> list[str]:
    sys.path.insert(0, str(ROOT))
    from scripts.write_manuals import file_names

    return [os.fspath(MANUALS / name) for name in file_names()]


setup(
    cmdclass={"build_py": BuildWithExtras},
    data_files=[
        ("share/man/man1", manuals()),
        ("share/bash-completion/completions", ["pvhdbg/completions/pvhdbg"]),
        ("share/zsh/site-functions", ["pvhdbg/completions/_pvhdbg"]),
        ("share/fish/vendor_completions.d", ["pvhdbg/completions/pvhdbg.fish"]),
    ],
)
