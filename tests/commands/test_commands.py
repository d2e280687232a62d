"""Every command on the real thing: a sample guest in a real QEMU, started by pvhdbg or by somebody else."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.commands.table import COMMANDS
from pvhdbg.targets.target import Leave
from pvhdbg.version import VERSION
from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Start, eventually, kernel_elf, outcomes, scratch
from tests.support.pseudo_terminal import openpty

GREETING = "hello from PVH"
KNOWN = "PVH-TR-LIMIT"  # what every QEMU violates


@pytest.fixture(scope="module")
def boot() -> Iterator[Cli]:
    """One boot of `hello` for all tests that only read: a snapshot, and the reports of `check` and `run`."""
    with scratch() as folder:
        cli = Cli(folder)
        cli("snapshot", "save", HELLO, "-o", "hello.pvhsnap").ok()
        yield cli


@pytest.fixture(scope="module")
def document() -> Iterator[dict[str, Any]]:
    """`check --format json` of a fresh boot."""
    with scratch() as folder:
        cli = Cli(folder)
        initrd = cli.file("initrd", b"070701" + bytes(5000))
        ran = cli("check", HELLO, "--format", "json", "--append", "one two=3", "--initrd", initrd).ok()
        assert ran.err == ""
        whole: dict[str, Any] = ran.json()
        yield whole


# --- the report ---------------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_report(cli: Cli, command: str) -> None:
    ran = cli(command, HELLO, "--append", "one two=3").ok()
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert re.match(r"VMM +QEMU \d+\.\d+", lines[0])
    assert any(re.match(r"entry +0x100000 <pvh_start>, found by ELF note", line) for line in lines)
    assert any("“one two=3”" in line for line in lines)
    for title in ("Registers", "Segments", "start_info"):
        assert title in lines
    assert any(line.startswith(f"KNOWN   {KNOWN}") for line in lines)
    assert "conforms" in lines[-1]
    assert "(exit 0)" in lines[-1]


@pytest.mark.boot
def test_the_json_report(document: dict[str, Any]) -> None:
    assert document["schema"] == "pvhdbg/report/1"
    assert document["vmm"]["name"] == "QEMU"
    assert re.match(r"\d+\.\d+", document["vmm"]["version"])
    assert document["vmm"]["accelerator"] == "tcg"
    assert document["vmm"]["firmware"]
    assert (document["entry"]["address"], document["entry"]["found_by"]) == ("0x100000", "ELF note")
    assert (document["protocol"]["name"], document["protocol"]["revision"], document["protocol"]["remarks"]) == ("pvh", "v1", [])
    assert document["registers"]["eip"] == "0x100000"
    assert document["registers"]["ebx"] == document["start_info"]["address"]
    for name in ("cs", "ds", "es", "ss", "tr"):
        assert {"selector", "base", "limit", "flags"} <= document["segments"][name].keys()
    for name in ("gdt", "idt"):
        assert document["segments"][name].keys() == {"base", "limit"}
    assert document["exit_code"] == 0


@pytest.mark.boot
def test_the_json_start_info(document: dict[str, Any]) -> None:
    info = document["start_info"]
    assert info["command_line"] == "one two=3"
    (module,) = info["modules"]
    assert module["size"] == hex(5006)
    assert info["memory_map"][0]["addr"] == "0x0"
    assert sum(int(one["size"], 16) for one in info["memory_map"] if one["type"] == 1) > 500 << 20
    assert info["rsdp"]["address"].startswith("0x")


@pytest.mark.boot
def test_the_json_outcomes(document: dict[str, Any]) -> None:
    for verdict in document["verdicts"]:
        assert {"rule", "outcome", "severity", "violations", "reason"} <= verdict.keys()
        assert verdict["outcome"] in ("pass", "fail", "known", "unknown", "remark", "not_applicable")
        for violation in verdict["violations"]:
            assert violation.keys() == {"at", "expected", "found"}
    assert document["summary"].keys() == {"pass", "fail", "known", "unknown", "remark", "not_applicable"}
    for outcome, number in document["summary"].items():
        assert number == list(outcomes(document).values()).count(outcome)
    assert outcomes(document)[KNOWN] == "known"


@pytest.mark.boot
@pytest.mark.parametrize("command", ["regs", "info"])
def test_regs_and_info(boot: Cli, command: str) -> None:
    text = boot(command, "hello.pvhsnap").ok().out
    document = boot(command, "hello.pvhsnap", "--format", "json").ok().json()
    assert document["schema"] == f"pvhdbg/{command}/1"
    if command == "regs":
        assert f"ebx {int(document['registers']['ebx'], 16):08x}" in text
        assert document["segments"]["cs"]["limit"] == "0xffffffff"
    else:
        assert document["start_info"]["address"] in text
        assert "memory map" in text


@pytest.mark.boot
@pytest.mark.parametrize("command", ["regs", "info"])
def test_regs_and_info_of_a_kernel(cli: Cli, command: str) -> None:
    assert "0x100000" in cli(command, HELLO).ok().out


# --- snapshots ----------------------------------------------------------------------------------------------------


def test_a_snapshot_is_judged_like_its_machine(cli: Cli, machine: Start) -> None:
    stub = machine()
    live = cli("check", stub.socket, "--kernel", HELLO, "--format", "json").ok().json()
    ran = cli("snapshot", "save", stub.socket, "--kernel", HELLO, "-o", "a.pvhsnap").ok()
    assert re.fullmatch(r"a\.pvhsnap: \d+ registers and \d+ bytes of memory saved\n", ran.out)
    filed = cli("check", "a.pvhsnap", "--format", "json").ok().json()
    live["verdicts"] = [one for one in live["verdicts"] if not one["rule"].startswith("ELF-")]  # a snapshot holds no file
    for key in ("verdicts", "registers", "segments", "start_info", "vmm", "entry", "protocol", "exit_code"):
        assert filed[key] == live[key], key


@pytest.mark.boot
def test_a_snapshot_to_standard_output(boot: Cli) -> None:
    document = json.loads(boot("snapshot", "save", HELLO, "-o", "-").ok().out)
    assert document["schema"] == "pvhdbg/snapshot/1"


@pytest.mark.boot
def test_a_snapshot_is_judged_by_any_revision(boot: Cli) -> None:
    assert boot("check", "hello.pvhsnap", "--spec", "v0").ok().out
    boot("check", "hello.pvhsnap", "--spec", "draft-a").ok(1)
    boot("check", "hello.pvhsnap", "--spec", "v2").complaint(2, "v2")


@pytest.mark.boot
def test_a_snapshot_takes_no_machine_options(boot: Cli) -> None:
    for words in (("--machine", "q35"), ("--here",), ("--reset",), ("--leave", "running"), ("--entry", "1"), ("--accel", "tcg")):
        boot("check", "hello.pvhsnap", *words).complaint(2, words[0])


# --- what is judged, and how it is shown --------------------------------------------------------------------------


@pytest.mark.boot
def test_strict(boot: Cli) -> None:
    assert "VIOLATES" in boot("check", "hello.pvhsnap", "--strict").ok(1).out.splitlines()[-1]
    boot("check", "hello.pvhsnap", "--strict", "--ignore", KNOWN).ok(0)


@pytest.mark.boot
def test_strict_is_undecided_without_the_kernel(cli: Cli, boot: Cli) -> None:
    document = json.loads((boot.folder / "hello.pvhsnap").read_text())
    document["kernel"] = None
    file = cli.file("a.pvhsnap", json.dumps(document))
    assert "undecided" in cli("check", file, "--strict", "--ignore", KNOWN).ok(4).out.splitlines()[-1]
    cli("check", file).ok(0)


@pytest.mark.boot
def test_select_and_ignore(boot: Cli) -> None:
    def judged(*words: str) -> set[str]:
        return set(outcomes(boot("check", "hello.pvhsnap", "--format", "json", *words).ok().json()))

    every = judged()
    assert judged("--select", KNOWN) == {KNOWN}
    assert judged("--select", f"{KNOWN},PVH-ESP") == {KNOWN, "PVH-ESP"}
    assert judged("--select", KNOWN, "--select", "PVH-ESP") == {KNOWN, "PVH-ESP"}
    assert judged("--select", "SI") == {rule for rule in every if rule.startswith("SI")} != set()
    assert judged("--ignore", "SI,PVH") == {rule for rule in every if not rule.startswith(("SI", "PVH"))}
    assert judged("--select", "pvh-tr", "--ignore", KNOWN) == {rule for rule in every if rule.startswith("PVH-TR")} - {KNOWN}


@pytest.mark.boot
def test_options_before_the_subject(boot: Cli) -> None:
    boot("check", "--select", KNOWN, "hello.pvhsnap").ok()


@pytest.mark.boot
def test_colour(boot: Cli) -> None:
    assert "\x1b" not in boot("check", "hello.pvhsnap").out
    assert "\x1b[" in boot("check", "hello.pvhsnap", "--color", "always").ok().out
    assert "\x1b[" in boot("check", "hello.pvhsnap", "--color", "always", env={"NO_COLOR": "1"}).out  # asked for is asked for
    assert "\x1b" not in boot("check", "hello.pvhsnap", "--color", "never").out
    assert "\x1b" not in boot("check", "hello.pvhsnap", "--color", "always", "--format", "json").out


@pytest.mark.boot
@pytest.mark.parametrize(
    ("words", "colour"), [((), True), (("--color", "never"), False), (("NO_COLOR",), False), (("TERM",), False)]
)
def test_colour_on_a_terminal(boot: Cli, words: tuple[str, ...], colour: bool) -> None:
    env = {"TERM": "xterm"} | ({words[0]: "dumb"} if words and words[0].isupper() else {})
    leader, follower = openpty()
    options = () if words and words[0].isupper() else words
    with open(follower, "w") as terminal, open(leader, "rb", buffering=0) as screen:
        boot("explain", KNOWN, *options, env=env, stdout=terminal)
        os.set_blocking(screen.fileno(), False)
        assert (b"\x1b[" in screen.read(4096)) is colour


@pytest.mark.boot
def test_output_into_a_file(boot: Cli) -> None:
    printed = boot("check", "hello.pvhsnap", "--format", "json").ok().out
    ran = boot("check", "hello.pvhsnap", "--format", "json", "--output", "report.json").ok()
    assert ran.out == ""
    assert (boot.folder / "report.json").read_text() == printed
    assert boot("check", "hello.pvhsnap", "--output", "/dev/stdout").ok().out == boot("check", "hello.pvhsnap").out
    assert not [name for name in os.listdir(boot.folder) if name.startswith(".")]


def test_output_through_a_link(cli: Cli) -> None:
    link = cli.folder / "link"
    link.symlink_to("target")
    for _ in range(2):  # the link dangles at first
        cli("explain", KNOWN, "--output", link).ok()
        assert link.is_symlink()
        assert KNOWN in (cli.folder / "target").read_text()


def test_output_into_a_fifo(cli: Cli) -> None:
    fifo = cli.folder / "fifo"
    os.mkfifo(fifo)
    with cli.start("explain", KNOWN, "--output", fifo) as process:
        assert KNOWN in fifo.read_text()
        cli.ended(process).ok()
    assert fifo.is_fifo()


@pytest.mark.boot
def test_a_failed_run_does_not_leave_the_old_output(cli: Cli) -> None:
    report = cli.file("report.json", "old")
    cli("check", "/nonexistent/kernel", "--output", report).complaint(2)
    assert "not observed: there is no file" in Path(report).read_text()
    assert set(os.listdir(cli.folder)) <= {"report.json", "tmp", "cache"}


# --- a machine that somebody else started -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "attach"])
def test_an_attached_machine_at_its_reset_vector(cli: Cli, machine: Start, command: str) -> None:
    stub = machine()
    document = cli(command, stub.socket, "--format", "json").ok().json()
    assert document["entry"]["address"] == "0x100000"
    assert document["entry"]["found_by"] == "fw_cfg"
    assert document["kernel"]["path"] == HELLO  # as the monitor names it, and confirmed by the guest's memory
    assert outcomes(document)[KNOWN] == "known"


def test_an_attached_machine_over_tcp(cli: Cli, machine: Start) -> None:
    stub = machine(gdb="tcp:127.0.0.1:0")
    ran = cli("attach", f"127.0.0.1:{stub.port()}", "--kernel", HELLO, "--leave", "killed", "--format", "json").ok()
    assert ran.json()["entry"]["found_by"] == "ELF note"
    eventually(lambda: not stub.running(), "QEMU still runs")


def test_left_running(cli: Cli, machine: Start) -> None:
    stub = machine()
    cli("check", stub.socket, "--leave", "running").ok()
    eventually(lambda: GREETING in stub.serial(), "the guest does not run")


def test_left_stopped(cli: Cli, machine: Start) -> None:
    stub = machine()
    first = cli("check", stub.socket, "--format", "json").ok().json()
    second = cli("check", stub.socket, "--leave", "stopped", "--format", "json").ok().json()
    assert second["verdicts"] == first["verdicts"]
    assert stub.serial() == ""
    with stub.debugger() as target:
        assert target.read_registers()["rip"] == HELLO_ENTRY


def test_left_killed(cli: Cli, machine: Start) -> None:
    stub = machine()
    cli("check", stub.socket, "--leave", "killed").ok()
    eventually(lambda: not stub.running(), "QEMU still runs")


@pytest.mark.boot
def test_a_kernel_left_running_can_be_attached_to(cli: Cli) -> None:
    out = cli("run", HELLO, "--leave", "stopped").ok().out
    found = re.search(r"QEMU \(pid (\d+)\) was left stopped; its gdbstub is (\S+)", out)
    assert found
    assert cli("check", found[2], "--format", "json", "--leave", "killed").ok().json()["entry"]["address"] == "0x100000"


def test_past_the_entry_and_reset(cli: Cli, machine: Start) -> None:
    stub = machine()
    with stub.debugger() as target:
        target.resume()
        eventually(lambda: GREETING in stub.serial(), "the guest does not run")
    cli("check", stub.socket, "--kernel", HELLO).complaint(3, "past its entry", "--reset", "--here")
    here = cli("check", stub.socket, "--here", "--format", "json")
    assert here.code in (0, 1)
    assert here.json()["entry"]["found_by"] == "here"
    again = cli("check", stub.socket, "--kernel", HELLO, "--reset", "--format", "json").ok().json()
    assert again["entry"] == {"address": "0x100000", "found_by": "ELF note", "symbol": "pvh_start"}
    assert outcomes(again)[KNOWN] == "known"
    cli("check", stub.socket, "--reset", "--leave", "running").ok()
    eventually(lambda: stub.serial().count(GREETING) == 2, "the guest does not run again")


def test_here_at_the_reset_vector(cli: Cli, machine: Start) -> None:
    stub = machine()
    ran = cli("check", stub.socket, "--here").ok(1)
    assert "caution" in ran.out
    assert "real mode" in ran.out
    assert cli("regs", stub.socket, "--here", "--format", "json").ok().json()["registers"]["eip"] == "0xfff0"
    cli("check", stub.socket).ok()  # looking did not move it past its entry


def test_another_kernel_than_the_loaded_one(cli: Cli, machine: Start) -> None:
    other = bytearray(Path(HELLO).read_bytes())
    at = other.index(b"hello from PVH")
    other[at : at + 5] = b"olleh"
    ran = cli("check", machine().socket, "--kernel", cli.file("other.elf", bytes(other)))
    assert "differs from the guest's memory" in ran.out


@pytest.mark.boot
def test_an_entry_by_symbol_and_by_number(cli: Cli) -> None:
    document = cli("check", HELLO, "--entry", "check_magic", "--format", "json").json()
    assert document["entry"]["found_by"] == "--entry"
    assert document["entry"]["symbol"] == "check_magic"
    number = cli("regs", HELLO, "--entry", document["entry"]["address"], "--format", "json").ok().json()
    assert number["entry"]["address"] == document["entry"]["address"]


@pytest.mark.boot
@pytest.mark.gdb
def test_through_gdb(cli: Cli) -> None:
    direct = cli("check", HELLO, "--format", "json").ok().json()
    through = cli("check", HELLO, "--format", "json", "--via", "gdb").ok().json()
    assert through["verdicts"] == direct["verdicts"]
    assert through["registers"] == direct["registers"]


@pytest.mark.boot
def test_words_for_qemu(cli: Cli) -> None:
    document = cli("info", HELLO, "--format", "json", "-m", "64M", "--", "-append", "last word").ok().json()
    assert document["start_info"]["command_line"] == "last word"
    cli("info", HELLO, "--", "-gdb", "tcp::1").complaint(2, "-gdb")


@pytest.mark.boot
@pytest.mark.parametrize("machine_type", ["pc", "q35", "microvm"])
def test_machines(cli: Cli, machine_type: str) -> None:
    document = cli("check", HELLO, "--machine", machine_type, "--cpus", "2", "--format", "json").ok().json()
    assert document["vmm"]["firmware"]
    assert document["summary"]["fail"] == 0


# --- rules, extract, help -----------------------------------------------------------------------------------------


def test_rules(cli: Cli) -> None:
    listed = cli("rules", "--format", "json").ok().json()
    assert listed["schema"] == "pvhdbg/rules/1"
    text = cli("rules").ok().out
    for rule in listed["rules"]:
        assert re.search(rf"^  {rule['id']} +{rule['severity']}", text, re.MULTILINE)


def test_explain(cli: Cli) -> None:
    text = cli("explain", KNOWN).ok().out
    document = cli("explain", KNOWN.lower(), "--format", "json").ok().json()
    assert document["schema"] == "pvhdbg/rule/1"
    assert document["id"] == KNOWN
    assert document["title"] in text
    assert document["clause"]["words"] in text


def test_extract(cli: Cli) -> None:
    import gzip

    packed = cli.file("hello.gz", gzip.compress(Path(HELLO).read_bytes()))
    assert cli("extract", packed, "-o", "hello").ok().out == f"hello: the ELF inside {packed} (gzip)\n"
    assert (cli.folder / "hello").read_bytes() == Path(HELLO).read_bytes()
    cli("extract", packed, "-o", packed).complaint(2, "itself")


@pytest.mark.boot
def test_a_compressed_kernel_is_booted(cli: Cli) -> None:
    import gzip

    packed = cli.file("hello.gz", gzip.compress(Path(HELLO).read_bytes()))
    assert "is a gzip" in cli("check", packed).ok().out


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_help(cli: Cli, command: str) -> None:
    ran = cli(*command.split(), "--help").ok()
    assert ran.out.startswith(f"usage: pvhdbg {command}")
    assert "example: pvhdbg" in ran.out


def test_overview_and_version(cli: Cli) -> None:
    text = cli("--help").ok().out
    for command in COMMANDS:
        assert command.name in text
    for code in ("0 conforms", "1 violated", "2 usage", "3 not observed", "4 undecided", "70 internal"):
        assert code in text
    assert cli("--version").ok().out == f"pvhdbg {VERSION}\n"


def test_leave_has_the_words_of_the_option() -> None:
    options = {name: one.options for command in COMMANDS for one in command.arguments for name in one.names}
    assert set(options["--leave"]["choices"]) == {leave.value for leave in Leave}


@pytest.mark.boot
def test_an_instruction_across_what_the_monitor_reads_at_first_is_whole(cli: Cli) -> None:
    """QEMU's monitor first reads to the next KiB, takes what goes on behind it for a byte, and is out of step from there on."""
    code = b"\x90" * 1021 + bytes.fromhex("85c0 b878563412 85db ebfe").ljust(2100, b"\x90")  # mov begins at 0x1003ff
    kernel = cli.file("across", kernel_elf(code))
    whole = [("0x1003fd", "85 c0"), ("0x1003ff", "b8 78 56 34 12"), ("0x100404", "85 db"), ("0x100406", "eb fe")]
    for begin in (0, 1):
        shown = cli("disas", kernel, f"/{4 - begin}", whole[begin][0]).ok().out
        assert re.findall(r"(0x100[34]\w\w):  ((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", shown) == whole[begin:]
        assert "b8 78 56 34 12           movl     $0x12345678, %eax" in shown
