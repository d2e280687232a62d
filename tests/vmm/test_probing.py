"""VMMs that boot the probe: the exact commands, what comes of each way to end, and nothing left behind.

The VMMs that cannot be had here are played by fakes (tests/support/fake_vmms.py); QEMU is real, and Xen is in test_xen.py.
"""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pvhdbg
from pvhdbg.commands.declare import Answer, Context
from pvhdbg.commands.probe_options import ProbeOptions
from pvhdbg.commands.probing import probe
from pvhdbg.errors import BadInput, PvhdbgError, TargetTimeout, VmmFailed
from pvhdbg.guests import path as guest
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.report.style import PLAIN
from pvhdbg.vmm.probing import programs, seam
from pvhdbg.vmm.probing.catalogue import RUNNERS, runner
from pvhdbg.vmm.probing.seam import Found, Wish
from tests.support.cli_runner import Cli, eventually
from tests.support.fake_vmms import KRUN, LOGS, make, make_xl
from tests.support.programs import need

PROBE = str(guest("probe"))
VMMS = {
    "firecracker": ("Firecracker", "1.12.1"),
    "alioth": ("Alioth", "0.12.0"),
    "cloud-hypervisor": ("Cloud Hypervisor", "48.0.0"),
    "crosvm": ("crosvm", "0.1.0"),
}
FAKES = tuple(VMMS)
PAGE = Path(__file__).parents[2] / "docs" / "probe.md"
SCHEMAS = Path(pvhdbg.__file__).parent / "report" / "schemas"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/kvm is there for the fakes; temporary files are in the test's own folder."""
    kvm = tmp_path / "kvm"
    kvm.touch()
    monkeypatch.setattr(programs, "KVM", str(kvm))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(name: str, **options: object) -> Answer:
    return probe(ProbeOptions(run=name)._replace(**options), Context())  # type: ignore[arg-type]


def report(name: str, **options: object) -> dict[str, Any]:
    answer = run(name, **options)
    assert answer.json is not None
    found: dict[str, Any] = json.loads(answer.json())
    return found


def left(folder: Path) -> list[str]:
    """What a run left in the folder for temporary files, and the processes that have it on their command line."""
    found = [one.name for one in (folder / "tmp").iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


# --- each way to end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["prints", "halts"])
@pytest.mark.parametrize("name", FAKES)
def test_a_complete_log_is_judged_whether_or_not_the_vmm_ends(tmp_path: Path, name: str, deed: str) -> None:
    found = report(name, binary=str(make(tmp_path, name, deed)))
    assert (found["vmm"]["name"], found["vmm"]["version"]) == VMMS[name]
    assert found["warnings"] == []
    assert left(tmp_path) == []


def test_the_version_of_the_program_decides_what_is_on_record(tmp_path: Path) -> None:
    answer = run("alioth", binary=str(make(tmp_path, "alioth", "prints")))
    assert answer.exit_code == 0
    assert answer.text(PLAIN).count("on record as ALIOTH-") == 5
    answer = run("alioth", binary=str(make(tmp_path, "alioth", "prints", "alioth 0.13.0")))
    assert answer.exit_code == 1
    assert "Alioth 0.13.0 was not measured" in answer.text(PLAIN)


@pytest.mark.parametrize("name", FAKES)
def test_a_vmm_that_dies_or_refuses_is_quoted(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        VmmFailed, match="exit status 3 before the probe printed anything: kvm: the machine cannot be created"
    ) as died:
        run(name, binary=str(make(tmp_path, name, "dies")))
    assert died.value.todo
    with pytest.raises(VmmFailed, match=r"exit status 2 .*: error: unexpected argument found"):
        run(name, binary=str(make(tmp_path, name, "refuses")))
    with pytest.raises(VmmFailed, match="was killed by signal 11"):
        run(name, binary=str(make(tmp_path, name, "killed")))
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", FAKES)
def test_a_vmm_that_hangs_is_ended_at_the_time_limit(tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetTimeout, match=r"printed nothing under .* within 0\.3 s") as hung:
        run(name, binary=str(make(tmp_path, name, "hangs")), seconds=0.3)
    assert "--for" in hung.value.todo
    assert left(tmp_path) == []


def test_half_a_log_is_judged_with_what_it_has(tmp_path: Path) -> None:
    found = report("firecracker", binary=str(make(tmp_path, "firecracker", "half")))
    assert any("ended with exit status 1 before the probe's report was complete" in one for one in found["warnings"])
    assert found["summary"]["unknown"] > 6
    assert found["summary"]["fail"] == 0


def test_the_log_can_be_kept(tmp_path: Path) -> None:
    run("firecracker", binary=str(make(tmp_path, "firecracker", "prints")), save=str(tmp_path / "kept.log"))
    assert (tmp_path / "kept.log").read_bytes() == (LOGS / "firecracker-1.12.1.log").read_bytes()
    with pytest.raises(BadInput, match="cannot be written"):
        run("firecracker", binary=str(make(tmp_path, "firecracker", "prints")), save=str(tmp_path))


# --- libkrun and xl -----------------------------------------------------------------------------------------------


def test_libkrun_is_called_as_a_library(tmp_path: Path) -> None:
    need("gcc")
    library = tmp_path / "libkrun.so.1.15.1"
    define = f'-DLOG="{LOGS / "libkrun.log"}"'
    subprocess.run(["gcc", "-shared", "-fPIC", define, "-x", "c", "-", "-o", str(library)], input=KRUN, text=True, check=True)
    answer = run("libkrun", binary=str(library))
    assert answer.exit_code == 0
    assert answer.text(PLAIN).count("on record as LIBKRUN-") == 2
    with pytest.raises(VmmFailed, match="krun_set_vm_config: Invalid argument"):
        run("libkrun", binary=str(library), probe_memory="1G")
    empty = tmp_path / "libkrun.so.1"
    subprocess.run(["gcc", "-shared", "-x", "c", "-", "-o", str(empty)], input="", text=True, check=True)
    with pytest.raises(VmmFailed, match="this libkrun has no krun_create_ctx"):
        run("libkrun", binary=str(empty))
    assert left(tmp_path) == []


CONTEXT = (Path(__file__).parents[1] / "data" / "hvmctx.txt").read_text()


def with_context(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "context.txt").write_text(text)
    program = folder / "xen-hvmctx"
    program.write_text(f'#!/bin/sh\n[ "$1" = 7 ] && cat {folder}/context.txt\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_domain_has_a_second_witness_for_what_the_probe_cannot_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_context(tmp_path, monkeypatch, CONTEXT)
    found = report("xl", binary=str(make_xl(tmp_path)))
    assert found["segments"]["tr"]["limit"] == "0x67"
    assert found["segments"]["cs"]["flags"] == "0xc09b00"
    assert found["summary"]["unknown"] == 3
    assert found["summary"]["fail"] == 0
    calls = (tmp_path / "called").read_text()
    assert re.match(r"create -p .*/probe.cfg\ndomid (pvhdbg-probe-\w{8})\nunpause \1\n", calls)
    assert not (tmp_path / "domain").exists()
    assert left(tmp_path) == []


@pytest.mark.parametrize("deed", ["wraps", "crashes"])
def test_no_line_of_a_domain_is_lost(deed: str, tmp_path: Path) -> None:
    """Xen's console is a ring, whose first lines are gone soon; and the last lines come when the domain has ended."""
    found = report("xl", binary=str(make_xl(tmp_path, deed)))
    whole = report("xl", binary=str(make_xl(tmp_path)))
    assert found["warnings"] == whole["warnings"]
    assert found["verdicts"] == whole["verdicts"]
    assert left(tmp_path) == []


def test_where_two_witnesses_differ_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_context(tmp_path, monkeypatch, CONTEXT.replace("cr0 0x0000000000000011", "cr0 0x0000000000000031"))
    found = report("xl", binary=str(make_xl(tmp_path)))
    assert any("cr0: the probe read 0x11, xen-hvmctx shows 0x31" in one for one in found["warnings"])
    assert found["registers"]["cr0"] is None


def test_a_domain_that_prints_nothing_is_destroyed(tmp_path: Path) -> None:
    with pytest.raises(TargetTimeout, match="printed nothing") as hung:
        run("xl", binary=str(make_xl(tmp_path, "hangs")), seconds=0.5)
    assert "guest_loglvl" in hung.value.todo
    assert not (tmp_path / "domain").exists()
    with pytest.raises(VmmFailed, match="exit status 1"):
        run("xl", binary=str(make_xl(tmp_path, "dies")))
    assert left(tmp_path) == []


def test_a_domain_is_destroyed_even_if_pvhdbg_is_killed(cli: Cli) -> None:
    xl = make_xl(cli.folder, "hangs")
    called = cli.folder / "called"
    with cli.start("probe", "--run", "xl", "--binary", str(xl)) as process:
        eventually(lambda: called.exists() and "unpause" in called.read_text(), "there is no domain", 20)
        process.send_signal(signal.SIGKILL)
    eventually(
        lambda: not (cli.folder / "domain").exists() and left(cli.folder) == [], "the domain, a process or a file is left", 10
    )


# --- what is asked for ---------------------------------------------------------------------------------------------


def test_exactly_one_of_log_run_and_list(cli: Cli) -> None:
    cli("probe").complaint(2, "exactly one of LOG, --run VMM and --list")
    cli("probe", str(LOGS / "libkrun.log"), "--list").complaint(2, "exactly one")
    cli("probe", str(LOGS / "libkrun.log"), "--memory", "1G").complaint(2, "--memory is for a VMM that is started")
    cli("probe", "--run", "vmware").complaint(2, "no VMM 'vmware'", "firecracker")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probe_memory": "many"}, "not a size of memory"),
        ({"seconds": -1.0}, "not a time limit"),
        ({"initrds": ("a", "b")}, "one ramdisk, not 2"),
        ({"fetch": True}, "--fetch downloads Xen"),
        ({"about": SubjectOptions(vmm="QEMU 7")}, "is for a log"),
        ({"probe_append": "a\nb"}, "line break"),
        ({"binary": "/nonexistent"}, "not a program"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_starts_nothing(tmp_path: Path, options: dict[str, object], words: str) -> None:
    binary = str(make(tmp_path, "firecracker", "prints"))
    with pytest.raises(PvhdbgError, match=words):
        run("firecracker", **{"binary": binary, **options})
    assert not (tmp_path / "called").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = str(make(tmp_path, "firecracker", "prints", "Firecracker v1.11.0"))
    with pytest.raises(VmmFailed, match=r"1\.11\.0 does not boot by PVH"):
        run("firecracker", binary=old)
    monkeypatch.setattr(programs, "KVM", str(tmp_path / "no-kvm"))
    with pytest.raises(VmmFailed, match=r"there is no .*no-kvm"):
        run("firecracker", binary=str(make(tmp_path, "firecracker", "prints")))


def test_the_list_says_what_is_here_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "alioth", "prints")
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = probe(ProbeOptions(list=True), Context())
    assert answer.json is not None
    found = json.loads(answer.json())
    jsonschema.validate(found, json.loads((SCHEMAS / "probe-list-1.json").read_text()))
    here = {one["name"]: one for one in found["vmms"]}
    assert list(here) == [one.name for one in RUNNERS]
    assert (here["alioth"]["here"], here["alioth"]["version"]) == (True, "0.12.0")
    assert all(one["missing"] and one["todo"] for one in found["vmms"] if not one["here"])
    assert re.search(r"^alioth +0\.12\.0, ", answer.text(PLAIN), re.MULTILINE)
    assert re.search(r"^crosvm +not here: crosvm is not in PATH\n +next: ", answer.text(PLAIN), re.MULTILINE)


def test_all_that_are_here_make_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, deed in (("alioth", "prints"), ("firecracker", "halts"), ("crosvm", "dies")):
        make(tmp_path, name, deed)
    for name in ("cat", "head", "sleep", "sh", "rm", "mkdir", "setpriv"):  # no QEMU
        (tmp_path / name).symlink_to(next(Path(one) for one in (f"/bin/{name}", f"/usr/bin/{name}") if Path(one).exists()))
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = run("all")
    assert answer.exit_code == 3
    assert answer.json is not None
    found = json.loads(answer.json())
    jsonschema.validate(found, json.loads((SCHEMAS / "probe-table-1.json").read_text()))
    rules = {one["id"]: one["outcomes"] for one in found["rules"]}
    assert rules["PVH-DS-FLAT"] == {"firecracker": "pass", "alioth": "known"}
    assert {one["name"]: bool(one["error"]) for one in found["vmms"] if not one["missing"]} == {
        "firecracker": False,
        "alioth": False,
        "crosvm": True,
    }
    text = answer.text(PLAIN)
    assert re.search(r"^PVH-DS-FLAT +pass +KNOWN +MUST$", text, re.MULTILINE)
    assert "SI-MM-WRAP" not in text
    assert re.search(r"^  crosvm +failed: crosvm ended with exit status 3", text, re.MULTILINE)


def test_a_xen_that_cannot_be_fetched_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    text = run("all", fetch=True).text(PLAIN)
    assert re.search(r"^  xen +failed: Xen cannot be fetched: apt-get is not here", text, re.MULTILINE)
    assert re.search(r"^  crosvm +not here", text, re.MULTILINE)


# --- the commands, which are on the page too ----------------------------------------------------------------------


def command(name: str, folder: Path) -> str:
    """The command as a user would type it."""
    binary = {"qemu": "qemu-system-x86_64", "xen": str(folder / "image")}.get(name, name)
    (folder / "image").write_bytes(b"\x7fELF")
    launch = runner(name).prepare(Wish("probe.elf", initrds=("initrd.img",), append="console=ttyS0"), Found(binary), str(folder))
    words = [f'"{word}"' if " " in word or word == "console=ttyS0" else word for word in launch.command]
    return re.sub(r"\S+/qemu-system", "qemu-system", " ".join(words).replace(str(folder), "RUN"))


@pytest.mark.parametrize("name", ["qemu", "xen", "firecracker", "cloud-hypervisor", "alioth", "crosvm"])
def test_the_page_shows_the_exact_command(tmp_path: Path, name: str) -> None:
    words = re.sub(r"\s+", " ", PAGE.read_text().replace("\\\n", " "))
    shown = command(name, tmp_path)
    assert shown in words, f"put this into docs/probe.md:\n{shown}"


def test_sizes_of_memory() -> None:
    assert [seam.mib(text) for text in (None, "512", "256M", "2g")] == [256, 512, 256, 2048]
    for wrong in ("", "0", "-1", "1T", "1.5G", "9999999G"):
        with pytest.raises(BadInput):
            seam.mib(wrong)


@pytest.mark.boot
def test_the_probe_under_the_real_qemu(cli: Cli) -> None:
    ran = cli(
        "probe", "--run", "qemu", "--memory", "64M", "--append", "hello", "--save", str(cli.folder / "qemu.log"), "--format", "json"
    ).ok()
    found = ran.json()
    assert found["vmm"]["name"] == "QEMU"
    assert found["start_info"]["command_line"] == "hello"
    assert found["summary"]["known"] == 1
    assert (cli.folder / "qemu.log").read_text().count(" end ") == 2
    assert left(cli.folder) == []
