"""The public surface: exactly `__all__`, sorted as ruff sorts it, every name with a docstring, lazily imported, and typed."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pvhdbg
from tests.support.cli_runner import HELLO, ROOT, Machine

# Imports every module that can be without GDB, and tells the exported names that are no longer what they were.
IMPORT_ALL = """
import importlib, pkgutil, pvhdbg
before = {name: getattr(pvhdbg, name) for name in pvhdbg.__all__}
for module in pkgutil.walk_packages(pvhdbg.__path__, "pvhdbg."):
    if not module.name.startswith(("pvhdbg.in_gdb.", "pvhdbg.targets.inside_gdb", "pvhdbg.targets.gdb_quiet", "pvhdbg.__main__")):
        importlib.import_module(module.name)
print([name for name in pvhdbg.__all__ if getattr(pvhdbg, name) is not before[name]])
"""


def test_all_is_what_can_be_imported() -> None:
    for name in pvhdbg.__all__:
        assert getattr(pvhdbg, name) is not None


def test_public_classes_and_functions_are_documented() -> None:
    for name in pvhdbg.__all__:
        value = getattr(pvhdbg, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name


def _python(code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else() -> None:
    assert _python("import sys, pvhdbg; print([m for m in sys.modules if m.startswith('pvhdbg.')])") == "[]"


@pytest.mark.slow
def test_no_exported_name_is_replaced_by_a_submodule() -> None:
    assert _python(IMPORT_ALL) == "[]"


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [pvhdbg.check, pvhdbg.launch, pvhdbg.why, pvhdbg.trace], ids=lambda call: call.__name__)
def test_an_option_that_there_is_not_is_told_with_the_nearest(call: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'machne': did you mean 'machine'\?"):
        call(HELLO, machne="q35")


def test_options_of_connect_are_those_of_the_way_to_the_entry() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'memory'"):
        pvhdbg.connect(":1", memory="1G")  # type: ignore[call-arg]


def test_a_list_of_words_is_not_one_word() -> None:
    with pytest.raises(TypeError, match=r"select=\['PVH'\]"):
        pvhdbg.check(HELLO, select="PVH")


CALLER = """
import pvhdbg

with pvhdbg.launch("vmlinux", machine="q35", memory=512) as guest:
    reveal_type(guest.entry)
pvhdbg.check("vmlinux", machne="q35")
pvhdbg.launch("vmlinux", accel="tgc")
pvhdbg.connect(":1234", memory="1G")
"""


@pytest.mark.slow
def test_a_type_checker_sees_a_wrong_option_where_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), "caller.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, timeout=300, check=False
    )
    said = [line.partition(": ")[::2] for line in done.stdout.splitlines() if " defined in " not in line]
    assert [place for place, _ in said] == ["caller.py:5", "caller.py:6", "caller.py:7", "caller.py:8"], done.stdout + done.stderr
    words = [text for _, text in said]
    assert "pvhdbg.decode.boot_state.BootState" in words[0]
    assert 'Unexpected keyword argument "machne" for "check"' in words[1]
    assert "incompatible type \"Literal['tgc']\"" in words[2] or "Literal['tcg', 'kvm', 'auto']" in words[2]
    assert 'Unexpected keyword argument "memory" for "connect"' in words[3]


# --- on a machine -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(qemu: str) -> pvhdbg.Report:
    return pvhdbg.check(HELLO, memory=64, select=["PVH", "SI"])


def test_the_size_of_memory_is_a_number_of_mib(report: pvhdbg.Report) -> None:
    assert report.exit_code == 0
    assert report.boot.snapshot.vmm.command is not None
    assert report.boot.snapshot.vmm.command[report.boot.snapshot.vmm.command.index("-m") + 1] == "64"


def test_results_are_shown_in_one_line(report: pvhdbg.Report) -> None:
    for value in (report, report.boot, report.boot.snapshot, report.verdicts[0].rule, report.boot.registers):
        assert len(repr(value)) < 400
        assert "\n" not in repr(value)
        assert type(value).__name__ in repr(value)


def test_results_pickle(report: pvhdbg.Report) -> None:
    for value in (report, report.boot, report.boot.snapshot, *report.verdicts):
        assert pickle.loads(pickle.dumps(value)) == value
    assert pickle.loads(pickle.dumps(report)).verdicts[0].rule is report.verdicts[0].rule


def test_a_report_as_json_is_what_check_prints(report: pvhdbg.Report) -> None:
    document = json.loads(report.to_json())
    assert (document["schema"], document["exit_code"]) == ("pvhdbg/report/1", 0)


def test_names_of_memory_ranges_have_no_line_ends(report: pvhdbg.Report) -> None:
    names = [one.name for one in report.boot.snapshot.backing or ()]
    assert any(name.startswith("pc.ram") for name in names)
    assert all(name == name.strip() for name in names)


@pytest.mark.usefixtures("qemu")
def test_a_guest_is_held_with_and_without_a_context(tmp_path: Path) -> None:
    with pvhdbg.launch(HELLO, memory=64) as guest:
        process = guest.qemu
        assert guest.registers["rip"] == guest.entry.snapshot.entry.address
        assert len(repr(guest)) < 400
        pvhdbg.save(guest, tmp_path / "one.pvhsnap")
    assert process.poll() is not None
    other = pvhdbg.launch(HELLO, memory=64)
    try:
        assert other.qemu.poll() is None
        pvhdbg.save(other.entry, tmp_path / "other.pvhsnap")
    finally:
        other.close()
    other.close()
    assert other.qemu.poll() is not None
    assert pvhdbg.load(tmp_path / "one.pvhsnap").entry.registers == pvhdbg.load(tmp_path / "other.pvhsnap").entry.registers
    assert pvhdbg.diff(tmp_path / "one.pvhsnap", tmp_path / "other.pvhsnap").exit_code == 0


def test_a_stub_is_connected_to(machine: Callable[..., Machine]) -> None:
    one = machine()
    with pvhdbg.connect(one.socket, kernel=HELLO, spec="v0") as guest:
        assert guest.entry.revision.name == "v0"
        guest.assert_conforms(allow=["PVH-TR-LIMIT"])
        with pytest.raises(pvhdbg.PvhdbgError, match="not started here"):
            _ = guest.qemu


@pytest.mark.usefixtures("qemu")
def test_what_becomes_of_a_guest() -> None:
    from pvhdbg import guests

    crashers = guests.path("crashers")
    found = pvhdbg.why(crashers, append="crash=hlt", memory=64, seconds=20)
    assert found.died
    assert "hlt" in found.explanation.verdict
    waited = pvhdbg.wait(guests.path("long_mode"), "long", memory=64, seconds=20)
    assert waited.reached
    assert not waited.died
    pcs = [event.pc for event in pvhdbg.trace(guests.path("long_mode"), count=5, memory=64) if hasattr(event, "code")]
    assert len(pcs) == 5


@pytest.mark.usefixtures("qemu")
def test_expectations_are_judged_from_python(tmp_path: Path) -> None:
    (tmp_path / "boot.toml").write_text(
        '[machine]\nmemory = "64M"\n[[expect]]\nfield = "start_info.command_line"\nmatches = "nothing"\n'
    )
    assert pvhdbg.check(HELLO, expect=tmp_path / "boot.toml").exit_code == 1
