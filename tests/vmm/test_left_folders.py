"""Private folders that a killed pvhdbg and its killed guardian left: which of them the next start removes."""

import os
import time
from pathlib import Path

import pytest

from pvhdbg.vmm.left_folders import AGE, held, sweep

OURS = "pvhdbg-0123456789ab"


def made(place: Path, name: str = OURS, mode: int = 0o700, age: float = 2 * AGE) -> Path:
    folder = place / name
    folder.mkdir()
    (folder / "serial").touch()
    folder.chmod(mode)
    os.utime(folder, (time.time() - age,) * 2)
    return folder


@pytest.mark.parametrize("name", [OURS, "pvhdbg-a_b3c4d5"])
def test_an_old_folder_that_nobody_holds_is_removed(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, name)
    sweep(str(tmp_path))
    assert not folder.exists()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "pvhdbg-00000000000a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pvhdbg-00000000000b").touch()
    made(tmp_path, "pvhdbg-0123456789ab.save")
    made(tmp_path, "pvhdbg-00000000000c", mode=0o755)
    made(tmp_path, "pvhdbg-00000000000d", age=1)
    if os.geteuid() == 0:
        os.chown(made(tmp_path, "pvhdbg-00000000000e"), 65534, 65534)
    before = sorted(tmp_path.rglob("*"))
    sweep(str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_use_stays_until_its_last_holder_has_gone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    pvhdbg = held(str(folder))
    qemu = os.dup(pvhdbg)  # as it inherits it
    os.close(pvhdbg)
    sweep(str(tmp_path))
    assert folder.exists()
    os.close(qemu)
    sweep(str(tmp_path))
    assert not folder.exists()


def test_a_place_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    sweep(str(tmp_path / "missing"))
