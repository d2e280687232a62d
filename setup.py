"""What pyproject.toml cannot say: the manual pages are made of the commands' declarations when pvhdbg is built."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MANUALS = Path("build", "man")  # relative to ROOT, as setuptools wants the names of files


class BuildWithManuals(build_py):
    """Also writes the manual pages, which the wheel installs as share/man/man1."""

    def run(self) -> None:
        super().run()
        sys.path.insert(0, str(ROOT))
        from scripts.write_manuals import write_manuals

        write_manuals(ROOT / MANUALS)


def manuals() -> list[str]:
    sys.path.insert(0, str(ROOT))
    from scripts.write_manuals import file_names

    return [os.fspath(MANUALS / name) for name in file_names()]


setup(
    cmdclass={"build_py": BuildWithManuals},
    data_files=[
        ("share/man/man1", manuals()),
        ("share/bash-completion/completions", ["pvhdbg/completions/pvhdbg"]),
        ("share/zsh/site-functions", ["pvhdbg/completions/_pvhdbg"]),
        ("share/fish/vendor_completions.d", ["pvhdbg/completions/pvhdbg.fish"]),
    ],
)
