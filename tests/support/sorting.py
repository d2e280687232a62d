"""Sorts the tests by what they start; `pytest --fast` runs those that start no QEMU, no GDB and no browser, and fetch nothing.

The marks decide, and the fixtures give most of them: a test that asks for one of BY_FIXTURE, directly or through another fixture,
is marked. `pytest --real` runs the tests marked `real` and no others. A test that starts a program in another way (`cli("run",
HELLO)`) needs `@pytest.mark.boot`. Without the mark it fails in every run: for tests that have neither `boot` nor `gdb`, PATH
begins with programs of those names that only fail.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.programs import need

BY_FIXTURE = {"qemu": "boot", "gdb": "gdb", "chromium": "browser", "packages": "fetch"}
BY_MARK = {"boot": "qemu-system-x86_64", "gdb": "gdb"}  # what must be installed
NOT_FAST = {*BY_FIXTURE.values(), "slow"}
GUARDED = ("qemu-system-x86_64", "qemu-system-i386", "gdb")
EXAMPLES, EXAMPLES_FAST = 100, 10  # of a property test, unless it says more

_DECOY = """#!/bin/sh
echo "${0##*/}" >>"${0%/*}/started"
echo "${0##*/}: this test is not marked 'boot' or 'gdb', so it must not start ${0##*/}" >&2
exit 70
"""
_decoys = pytest.StashKey[Path]()


def examples(count: int) -> int:
    """How many examples a property test runs that wants `count`: fewer with --fast."""
    return max(1, count * settings().max_examples // EXAMPLES)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="only tests of the distribution's kernel with debug info (make test-real)")
    parser.addoption("--fast", action="store_true", help="only tests that start no QEMU, GDB or browser and fetch nothing")


def pytest_configure(config: pytest.Config) -> None:
    patient = settings(suppress_health_check=[HealthCheck.too_slow])  # it judges the machine's load
    settings.register_profile("all", patient)
    settings.register_profile("fast", patient, max_examples=EXAMPLES_FAST)
    settings.load_profile("fast" if config.getoption("--fast") else "all")
    folder = Path(tempfile.mkdtemp(prefix="pt-decoys-"))
    for name in GUARDED:
        (folder / name).write_text(_DECOY)
        (folder / name).chmod(0o755)
    config.stash[_decoys] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_decoys], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in BY_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(BY_FIXTURE[fixture])
    wanted = [item for item in items if ("real" in _marks(item)) is config.getoption("--real")]
    if config.getoption("--fast"):
        wanted = [item for item in wanted if not _marks(item) & NOT_FAST]
    others = set(items).difference(wanted)
    if others:
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = wanted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if _marks(item) & BY_MARK.keys():
        return (yield)
    before, decoys = os.environ["PATH"], item.config.stash[_decoys]
    (decoys / "started").unlink(missing_ok=True)
    os.environ["PATH"] = f"{decoys}:{before}"
    try:
        return (yield)
    finally:
        os.environ["PATH"] = before


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    need(*(BY_MARK[mark] for mark in sorted(_marks(item) & BY_MARK.keys())))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        started = item.config.stash[_decoys] / "started"
        if started.exists():
            names = ", ".join(sorted(set(started.read_text().split())))
            started.unlink()
            pytest.fail(f"it started {names}, and is not marked so: @pytest.mark.boot for QEMU, @pytest.mark.gdb for GDB alone")


def _marks(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}
