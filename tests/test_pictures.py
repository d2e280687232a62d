"""The pictures in docs/images: made by the script from real runs, and showing what is printed today."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lxml import etree

from pvhdbg.vmm.qemu import version_of
from tests.report.browser import program
from tests.support.cli_runner import ROOT

PICTURES = ROOT / "docs" / "images"
MADE_WITH = "7.2.22"  # another QEMU lays its memory out in another way


def words(picture: Path) -> list[str]:
    """The text of an SVG, piece by piece."""
    return ["".join(one.itertext()) for one in etree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.boot
@pytest.mark.browser
def test_the_pictures_show_what_is_printed_today(tmp_path: Path) -> None:
    program()  # skips without a browser
    subprocess.run([sys.executable, ROOT / "scripts" / "make_pictures.py", tmp_path], check=True, timeout=110)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in PICTURES.iterdir())
    for made in tmp_path.glob("*.svg"):
        found = words(made)
        assert len(found) > 15
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", made.read_text(encoding="utf-8"))
        if version_of().startswith(MADE_WITH):
            assert found == words(PICTURES / made.name), f"make it again: scripts/make_pictures.py ({made.name})"
    for png in (tmp_path / "report.png", PICTURES / "report.png"):
        assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(png.read_bytes()[16:20], "big") == 1100
