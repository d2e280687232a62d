"""Paths as code scanning wants them."""

from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from pvhdbg.commands.code_location import location_of
from pvhdbg.report.sarif import Location


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "out dir").mkdir()
    (tmp_path / "repo" / "out dir" / "vm:linux%").write_bytes(b"")
    (tmp_path / "elsewhere").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "repo" / "out dir")
    return tmp_path / "repo"


def test_a_file_in_the_repository_is_relative_to_its_root(repository: Path) -> None:
    for path in ("vm:linux%", str(repository / "out dir" / "vm:linux%"), "../out dir/vm:linux%"):
        found = location_of(path)
        assert found is not None
        assert (found.uri, found.base) == ("out%20dir/vm%3Alinux%25", repository.resolve().as_uri())


def test_without_a_repository_it_is_relative_to_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k").write_bytes(b"")
    found = location_of("k")
    assert found is not None
    assert found.uri == "k"


def test_a_file_outside_is_absolute(repository: Path) -> None:
    found = location_of("../../elsewhere")
    assert found is not None
    assert found.base is None
    assert unquote(urlparse(found.uri).path) == str(repository.parent.resolve() / "elsewhere")


def test_a_link_keeps_the_name_that_the_repository_knows(repository: Path) -> None:
    (repository / "vmlinux").symlink_to(repository.parent / "elsewhere")
    found = location_of("../vmlinux")
    assert found is not None
    assert found.uri == "vmlinux"


@pytest.mark.parametrize("address", [":1234", "unix:/run/gdb", "host:1", "no\0name"])
def test_an_address_has_no_location(address: str) -> None:
    assert location_of(address) is None


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, gone = tmp_path / "k", tmp_path / "gone"
    file.write_bytes(b"x")
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert location_of(str(file)) == Location(file.as_uri())
