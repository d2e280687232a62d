"""Machines that stand at the entry of a guest, for the tests of the tracer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import guests
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.vmm.qemu import QemuOptions
from tests.support.debugged import debugged

AtEntry = Callable[..., RemoteTarget]


@pytest.fixture
def at_entry(qemu: str) -> Iterator[AtEntry]:
    """Starts a guest, by name or path, and runs it to its entry; everything is ended afterwards."""
    with ExitStack() as stack:

        def boot(guest: str | Path, append: str | None = None, **options: Any) -> RemoteTarget:
            path = guest if isinstance(guest, Path) else guests.path(guest)
            with open_kernel(str(path)) as image:
                entry = image.kernel().entry
            assert entry is not None
            _, target = stack.enter_context(debugged(QemuOptions(path, append=append, **{"memory": "64M", **options})))
            run_until(target, [entry], 20)
            return target

        yield boot


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tracer's FIFO lies in TMPDIR, and is gone after each test."""
    import tempfile

    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    left = [entry for entry in folder.rglob("*") if entry.name == "log"]
    assert not left, left
