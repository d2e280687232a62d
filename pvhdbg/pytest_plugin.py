"""pytest plugin: boot a kernel through PVH in a test, assert on what it was handed, and see why it failed.

::

    def test_boots(pvh_boot):
        boot = pvh_boot(append="console=ttyS0")   # the kernel of --pvh-kernel
        boot.assert_conforms(allow=["PVH-TR-LIMIT"])
        assert boot.entry.start_info.command_line == "console=ttyS0"

Every boot of a test ends with it. When the test fails, its report shows the verdicts, the end of the serial log and where the
CPU was; with --pvh-keep the snapshot, the logs and an HTML report are kept in a folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pvhdbg.errors import CannotMutate, PvhdbgError, TargetError

if TYPE_CHECKING:
    from pvhdbg.booted import Guest, Handoff
    from pvhdbg.spec.revisions import SpecName

_PACKAGE = Path(__file__).parent  # its frames do not help the author of a test
_LINES = 40  # of the serial log in a failure's report
_BOOTS = pytest.StashKey["list[Guest]"]()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """A string of the guest compared with a `str`: the differences, shown as pytest does for two `str`."""
    from pvhdbg.decode.boot_state import Text

    if op != "==" or {type(left), type(right)} != {Text, str}:
        return None
    from difflib import ndiff

    from pvhdbg.decode.text import printable

    lines = [line.rstrip("\n") for line in ndiff([printable(str(right))], [printable(str(left))])]
    return [f"{str(left)!r} == {str(right)!r}", *lines]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pvh", "booting kernels through PVH (pvhdbg)")
    group.addoption("--pvh-kernel", metavar="FILE", help="the kernel that pvh_boot() boots (ini: pvh_kernel)")
    group.addoption(
        "--pvh-qemu",
        metavar="BINARY",
        action="append",
        help="the QEMU to use; with several, each test runs with each (ini: pvh_qemu)",
    )
    group.addoption("--pvh-machine", metavar="TYPE", help="QEMU's machine type (ini: pvh_machine)")
    group.addoption(
        "--pvh-keep", metavar="FOLDER", help="keep snapshot, logs and report of failed tests in this folder (ini: pvh_keep)"
    )
    parser.addini("pvh_kernel", "the kernel that pvh_boot() boots, relative to the ini file", default="")
    parser.addini("pvh_qemu", "the QEMUs to use", type="args", default=[])
    parser.addini("pvh_machine", "QEMU's machine type", default="")
    parser.addini("pvh_keep", "the folder for snapshot, logs and report of failed tests, relative to the ini file", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker. Also: pytest determines its root folder before it knows our options: it takes a word after one of them for a test's path,
    and a kernel elsewhere moves the root there, away from the project's ini file. Raises UsageError where that has happened.
    """
    config.addinivalue_line(
        "markers", "pvh_stress(*ids): run the test once with each mutation of `pvhdbg stress` (all without ids); pvh_boot makes it"
    )
    here, words = config.invocation_params.dir, config.invocation_params.args
    if hasattr(config, "workerinput") or config.rootpath in (here, *here.parents):
        return
    for name in ("--pvh-kernel", "--pvh-qemu", "--pvh-keep"):
        if name in words:
            what = f"pytest took the path after {name} for that of a test, and {config.rootpath} for the project"
            raise pytest.UsageError(f"{what}: write {name}=PATH, or put pvh_{name[6:]} into the ini file")


def _option(config: pytest.Config, name: str, path: bool = False) -> str | None:
    given = config.getoption(f"--pvh-{name}")
    if given:
        return str(given)
    value = str(config.getini(f"pvh_{name}"))
    if value and path and config.inipath is not None:
        return str(config.inipath.parent / value)
    return value or None


def _qemus(config: pytest.Config) -> list[str]:
    return list(config.getoption("--pvh-qemu") or config.getini("pvh_qemu"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    qemus = _qemus(metafunc.config)
    if "pvh_qemu" in metafunc.fixturenames and len(qemus) > 1:
        metafunc.parametrize("pvh_qemu", qemus, indirect=True, scope="session", ids=[os.path.basename(one) for one in qemus])
    marker = metafunc.definition.get_closest_marker("pvh_stress")
    if marker is not None and "pvh_mutation" in metafunc.fixturenames:
        from pvhdbg.stress.catalogue import choose

        try:
            names = [one.id for one in choose(marker.args)]
        except PvhdbgError as error:
            raise pytest.UsageError(f"pvh_stress: {error.what}: {error.todo}") from error
        metafunc.parametrize("pvh_mutation", names, indirect=True, ids=names)


# --- fixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pvh_qemu(request: pytest.FixtureRequest) -> str | None:
    """The QEMU that pvh_boot uses: from --pvh-qemu or pvh_qemu, None for the QEMU that pvhdbg chooses."""
    given = getattr(request, "param", None) or next(iter(_qemus(request.config)), None)
    return None if given is None else str(given)


@pytest.fixture(scope="session")
def pvh_qemu_versions(request: pytest.FixtureRequest) -> dict[str, str]:
    """The version of each QEMU that tests run with, by its name as given: {"qemu-system-x86_64": "7.2.22 (Debian …)"}.

    Without --pvh-qemu or pvh_qemu pvhdbg chooses the QEMU. Raises VmmFailed for one that cannot be started.
    """
    from pvhdbg.booted import qemu_version
    from pvhdbg.vmm.options import DEFAULT_QEMU

    return {one: qemu_version(one) for one in _qemus(request.config) or [DEFAULT_QEMU]}


@pytest.fixture(scope="session")
def pvh_kernel(request: pytest.FixtureRequest) -> Path | None:
    """The kernel of --pvh-kernel or pvh_kernel."""
    kernel = _option(request.config, "kernel", path=True)
    return None if kernel is None else Path(kernel)


@pytest.fixture
def pvh_mutation(request: pytest.FixtureRequest) -> str | None:
    """The mutation that pvh_boot makes in a test that is marked `pvh_stress`; None in other tests."""
    given = getattr(request, "param", None)
    return None if given is None else str(given)


@pytest.fixture
def pvh_boot(
    request: pytest.FixtureRequest, pvh_qemu: str | None, pvh_kernel: Path | None, pvh_mutation: str | None
) -> Iterator[Callable[..., Guest]]:
    """`pvh_boot(kernel=None, *, machine, memory, append, initrd, cpus, cpu, accel, qemu, extra, spec, timeout, mutate)` -> `Guest`.

    The arguments are those of `pvhdbg.launch`; defaults come from the options. The result is also a context manager: the
    guest then ends with the block, else with the test. Raises PvhdbgError; TypeError for an unknown argument.
    """
    boots = request.node.stash.setdefault(_BOOTS, [])
    with ExitStack() as stack:

        def start(kernel: str | os.PathLike[str] | None = None, **options: Any) -> Guest:
            __tracebackhide__ = True
            from pvhdbg.booted import launch

            given = kernel or pvh_kernel
            if given is None:
                pytest.fail("pvh_boot() has no kernel: give one, or --pvh-kernel, or pvh_kernel in the ini file", pytrace=False)
            defaults = {"qemu": pvh_qemu, "machine": _option(request.config, "machine")}
            if pvh_mutation is not None:
                options["mutate"] = [pvh_mutation, *options.get("mutate", ())]
            try:
                one = stack.enter_context(launch(given, **{**defaults, **options}))
            except CannotMutate as why:
                if pvh_mutation is None:
                    raise
                pytest.skip(f"{why.what}")
            boots.append(one)
            return one

        yield start
        boots.clear()


@pytest.fixture
def pvh_snapshot() -> Callable[..., Handoff]:
    """`pvh_snapshot(path, spec="v1")` -> the hand-off in a saved snapshot, to assert on as on a boot's."""

    def read(path: str | os.PathLike[str], spec: SpecName = "v1") -> Handoff:
        __tracebackhide__ = True
        from pvhdbg.booted import load

        return load(path, spec)

    return read


# --- when a test fails --------------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    error = None if call.excinfo is None else call.excinfo.value
    if isinstance(error, PvhdbgError):
        _end_in_the_test(error)
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    if isinstance(error, PvhdbgError) and error.todo:
        report.sections.append(("next", error.todo))
    if not report.failed or call.when != "call":
        return
    boots = item.stash.get(_BOOTS, [])
    keep = _option(item.config, "keep", path=True)
    for number, boot in enumerate(boots):
        name = f"pvh boot {number}" if len(boots) > 1 else "pvh boot"
        report.sections.append((name, _told(boot)))
        if keep is not None:
            report.sections.append((f"{name}, kept in", _kept(boot, Path(keep), f"{item.nodeid}-{number}")))


def _end_in_the_test(error: PvhdbgError) -> None:
    """Cut the traceback after the last frame outside this package: the frames inside it do not help the author of a test."""
    last, step = None, error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if _PACKAGE not in Path(file).parents and file != contextlib.__file__:
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None


def _told(boot: Guest) -> str:
    from pvhdbg.booted import told
    from pvhdbg.decode.text import own_line

    try:
        place = boot.where()
    except TargetError as error:
        place = error.what
    serial = [own_line(line) for line in boot.qemu.serial_tail(_LINES)]
    lines = [told(boot.report()), "", f"CPU: {place}"]
    return "\n".join(
        [*lines, *(["", f"serial port, last {len(serial)} lines:", *serial] if serial else ["", "serial port: nothing"])]
    )


def _kept(boot: Guest, folder: Path, test: str) -> str:
    from pvhdbg.report import html

    place = folder / re.sub(r"[^A-Za-z0-9._=-]+", "-", test).strip("-")[-150:]
    try:
        place.mkdir(parents=True, exist_ok=True)
        boot.snapshot(place / "entry.pvhsnap")
        (place / "report.html").write_text(html.render(boot.report()), encoding="utf-8")
        (place / "serial.log").write_text(boot.serial.text, encoding="utf-8")
        (place / "qemu.log").write_text("\n".join(boot.qemu.stderr_tail(1000)), encoding="utf-8")
    except OSError as error:
        return f"{place} cannot be written: {error.strerror}"
    return str(place)
