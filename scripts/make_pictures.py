#!/usr/bin/env python3
"""Make the pictures in docs/images from real runs: a terminal and diagrams as SVG, the HTML report in Chromium as PNG. A test runs it.

scripts/make_pictures.py [FOLDER]      needs QEMU, Chromium and the packages of the extra `dev`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts import diagrams  # noqa: E402

FOLDER = ROOT / "docs" / "images"
COLUMNS = 126
LATEST = 120  # seconds for one program
# Each picture: the command, and the first and the last line of its output that it shows.
TERMINALS = {
    "check.svg": ("check pvhdbg/guests/hello.elf", "start_info", "the hand-off conforms"),
    "why.svg": ("why pvhdbg/guests/crashers.elf --append crash=page-fault", "The CPU shut down", "    entry 0 of the PD"),
}
# Each diagram: the command whose JSON it shows, and how it is drawn.
DIAGRAMS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "handoff.svg": ("check pvhdbg/guests/hello.elf --append console=ttyS0 --initrd pvhdbg/guests/hello.elf", diagrams.handoff),
    "death.svg": ("why pvhdbg/guests/crashers.elf --append crash=page-fault", diagrams.death),
    "timeline.svg": ("timeline pvhdbg/guests/long_mode.elf --until long", diagrams.timeline),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_THEME = TerminalTheme(
    (24, 26, 31), (220, 223, 228),
    [(24, 26, 31), (224, 108, 117), (152, 195, 121), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194), (220, 223, 228)],
)  # fmt: skip
# The fonts are the reader's: a picture fetches nothing.
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def pvhdbg(*words: str) -> str:
    """What pvhdbg prints; its exit code is not of interest here: `why` explains a guest that died."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", "pvhdbg", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LATEST, check=False)
    if not done.stdout:
        raise SystemExit(f"pvhdbg {' '.join(words)} prints nothing: {done.stderr}")
    return done.stdout


def terminal(name: str) -> str:
    """The SVG of one terminal."""
    words, first, last = TERMINALS[name]
    printed = Text.from_ansi(pvhdbg(*words.split(), "--color", "always")).split("\n")
    begin = next(index for index, line in enumerate(printed) if line.plain.startswith(first))
    end = next(index for index, line in enumerate(printed) if index >= begin and line.plain.startswith(last))
    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor", legacy_windows=False
        )
        console.print(Text(f"$ pvhdbg {words}", style="bold"))
        if begin:
            console.print(Text("…", style="dim"))
        for line in printed[begin : end + 1]:
            console.print(line)
    return console.export_svg(title="pvhdbg", theme=_THEME, code_format=_SVG, unique_id=name.removesuffix(".svg"))


def report(path: Path) -> None:
    """The top of the HTML report of `hello`, as a PNG."""
    browser = next((found for one in _BROWSERS if (found := shutil.which(one))), None)
    if browser is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        text = pvhdbg("check", "pvhdbg/guests/hello.elf", "--format", "html")
        page.write_text(text.replace(str(ROOT), "/home/you/pvhdbg"), encoding="utf-8")
        switches = (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
        )
        command = [
            browser,
            *switches,
            f"--user-data-dir={folder}/profile",
            f"--screenshot={path}",
            "--window-size=1100,760",
            page.as_uri(),
        ]
        subprocess.run(command, capture_output=True, timeout=LATEST, check=True)


def make(folder: Path) -> None:
    """All pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TERMINALS:
        (folder / name).write_text(terminal(name), encoding="utf-8")
    for name, (words, drawn) in DIAGRAMS.items():
        (folder / name).write_text(drawn(json.loads(pvhdbg(*words.split(), "--format", "json"))), encoding="utf-8")
    report(folder / "report.png")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
