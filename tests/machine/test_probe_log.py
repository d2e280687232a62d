"""`pvhdbg probe LOG` and `check LOG` on real logs, and on whatever else may be handed over as one."""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from pvhdbg.guests import path as guest
from tests.support.cli_runner import HELLO, LONGEST, Cli, Machine, eventually, outcomes, scratch

PROBE = str(guest("probe"))
MEMORY = 128 << 20  # bytes of address space that have to be enough for a log of any size


@pytest.fixture(scope="module")
def boot() -> Iterator[tuple[Cli, dict[str, Any], bytes]]:
    """One boot: a command line in a folder, the report that a debugger gave of it, and what the probe printed."""
    machine = Machine("-M", "q35", "-append", "one two=3", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", kernel=PROBE)
    try:
        with scratch() as folder:
            cli = Cli(folder)
            live = cli("check", machine.socket, "--kernel", PROBE, "--leave", "running", "--format", "json").ok().json()
            eventually(lambda: not machine.running(), "the probe does not end", 20)
            yield cli, live, (machine.folder / "serial").read_bytes()
    finally:
        machine.close()


@pytest.fixture(scope="module")
def logged(boot: tuple[Cli, dict[str, Any], bytes]) -> bytes:
    return boot[2]


# A log shows neither where the machine has RAM, nor the kernel's bytes, nor its symbols.
UNSEEN = {"PVH-LOAD-RAM", "PVH-LOAD-BYTES", "PVH-LOAD-BSS"}


# --- the report ---------------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("command", ["check", "probe"])
def test_the_verdicts_are_those_of_a_debugger(boot: tuple[Cli, dict[str, Any], bytes], command: str) -> None:
    cli, live, log = boot
    path = cli.file("serial.log", log)
    version = live["vmm"]["version"]
    told = cli(command, path, "--kernel", PROBE, "--vmm", f"qemu {version}", "--format", "json").ok().json()
    seen, logged = ([v for v in one["verdicts"] if v["rule"] not in {*UNSEEN, "PVH-EIP-SYMBOL"}] for one in (live, told))
    assert logged == seen
    assert {outcomes(told)[rule] for rule in UNSEEN} == {"unknown"}
    assert told["start_info"] == live["start_info"]
    assert told["exit_code"] == live["exit_code"] == 0
    alone = cli(command, path, "--format", "json").ok().json()
    known = {rule for rule, outcome in outcomes(live).items() if outcome == "known"}
    assert known == {"PVH-TR-LIMIT"}
    machine_rules = {rule: outcome for rule, outcome in outcomes(live).items() if not rule.startswith("ELF-")}
    unknown = dict.fromkeys((*UNSEEN, "PVH-TR-LIMIT"), "unknown")
    assert outcomes(alone) == {**machine_rules, **unknown, "PVH-EIP-SYMBOL": "not_applicable"}


@pytest.mark.boot
def test_a_log_as_text(cli: Cli, logged: bytes) -> None:
    ran = cli("probe", cli.file("serial.log", logged)).ok()
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0].startswith("VMM       QEMU, tcg; firmware: SeaBIOS + pvh.bin")
    assert lines[1].startswith("kernel    the guest probe, by its own report, at 0x100000")
    assert any("“one two=3”" in line for line in lines)
    assert "found 0xffff, which QEMU-TR-LIMIT has on record" in ran.out
    assert "4 checks undecided" in lines[-1]
    cli("probe", "serial.log", "--strict").ok(4)


@pytest.mark.boot
def test_regs_info_and_snapshot_take_a_log(cli: Cli, logged: bytes) -> None:
    path = cli.file("serial.log", logged)
    assert "ebx 000021e0" in cli("regs", path).ok().out
    assert "one two=3" in cli("info", path).ok().out
    cli("snapshot", "save", path, "-o", "boot.pvhsnap").ok()
    saved = cli("check", "boot.pvhsnap", "--format", "json").ok().json()
    assert saved["verdicts"] == cli("check", path, "--format", "json").ok().json()["verdicts"]


@pytest.mark.boot
def test_standard_input(cli: Cli, logged: bytes) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pvhdbg", "probe", "-"], input=logged, capture_output=True, env=cli.env, check=False
    )
    assert ran.returncode == 0
    assert b"conforms" in ran.stdout


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_kernel_messages_between_and_a_cut_at_the_end(cli: Cli, logged: bytes) -> None:
    mixed = b"".join(b"[    0.000000] Linux\n" + line for line in logged.splitlines(keepends=True))
    ran = cli("probe", cli.file("mixed.log", mixed)).ok()
    assert "note " not in ran.out.replace("note: ", "")
    ran = cli("probe", cli.file("cut.log", mixed[: len(mixed) // 2])).ok()
    assert "ends before the probe's report is complete" in ran.out
    assert "UNKNOWN" in ran.out
    document = cli("probe", "cut.log", "--format", "json").ok().json()
    assert any("ends before" in warning for warning in document["warnings"])


@pytest.mark.boot
def test_a_damaged_line_is_named_and_the_rest_used(cli: Cli, logged: bytes) -> None:
    damaged = logged.replace(b" general 0", b" general 1", 1)
    document = cli("check", cli.file("damaged.log", damaged), "--format", "json").ok().json()
    assert outcomes(document)["PVH-EBX-SET"] == "unknown"
    assert outcomes(document)["PVH-CR0-PE"] == "pass"
    assert any("0001" in warning for warning in document["warnings"])


@pytest.mark.boot
def test_a_log_in_which_nothing_can_be_used(cli: Cli, logged: bytes) -> None:
    body = b"PVHPROBE7 0000cafe 0000 begin"
    cli("check", cli.file("v7.log", body + b" *%08x\r\n" % zlib.crc32(body))).complaint(2, "version 7", "version 1")
    cli("check", cli.file("broken.log", logged.replace(b"*", b"*0").replace(b"\r\n", b"x"))).complaint(2)
    cli("probe", cli.file("sums.log", re.sub(rb"\*.", b"*-", logged))).complaint(2, "checksum")
    cli("probe", cli.file("other.log", b"Linux version 6.1\n")).complaint(2, "other.log", "no line")
    cli("probe", cli.file("empty.log", b"")).complaint(2, "no line")
    cli("probe", "-").complaint(2, "standard input")


@pytest.mark.parametrize("subject", ["nosuch.log", "/nonexistent/serial.log", ".", ":1234"])
def test_no_log_at_all(cli: Cli, subject: str) -> None:
    cli("probe", subject).complaint(2)


@pytest.mark.boot
def test_what_does_not_go_with_a_log(cli: Cli, logged: bytes) -> None:
    path = cli.file("serial.log", logged)
    for words in (("--entry", "0x100000"), ("--here",), ("--reset",), ("--machine", "q35"), ("--append", "x")):
        cli("check", path, *words).complaint(2, words[0], "only read")
    cli("run", path).complaint(2, "log", "pvhdbg probe")
    cli("check", path, "--vmm", " ").complaint(2, "--vmm")
    cli("check", HELLO, "--vmm", "QEMU 7.2").complaint(2, "--vmm", "log")
    assert "--vmm says Xen, but CPUID names" in cli("check", path, "--vmm", "xen 4.17", "--select", "PVH-CR0").ok().out
    assert "is not the probe that wrote this log" in cli("check", path, "--kernel", HELLO, "--select", "PVH-CR0").ok().out


def test_a_kernel_is_no_log(cli: Cli) -> None:
    """The guest holds the words that its lines begin with, and a kernel may hold a whole line."""
    body = b"PVHPROBE1 0000cafe 0000 begin"
    for head in (b"\x7fELF", b"MZ" + bytes(0x200) + b"HdrS", b"\x1f\x8b"):
        cli("check", cli.file("kernel", head + bytes(600) + body + b" *%08x\n" % zlib.crc32(body))).ok(2)
        assert "probe" not in cli("check", "kernel").err
    cli("probe", PROBE).complaint(2, "no line")


def confined(cli: Cli, *words: str, stdin: int = subprocess.DEVNULL) -> tuple[int, str]:
    """Exit code and output of a command that may not have more than MEMORY bytes of address space."""
    limited = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); "
        "from pvhdbg.cli.program import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", limited, *words],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cli.env, timeout=LONGEST, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout


@pytest.mark.boot
def test_four_gigabytes_with_the_log_at_the_end(cli: Cli, logged: bytes) -> None:
    path = cli.folder / "huge.log"
    with open(path, "wb") as file:
        file.seek((4 << 30) - 100)
        file.write(logged)
    code, text = confined(cli, "check", str(path))
    assert (code, "conforms" in text) == (0, True), f"exit {code}\n{text}"


def test_four_gigabytes_of_nothing(cli: Cli) -> None:
    path = cli.folder / "huge.log"
    with open(path, "wb") as file:
        file.truncate(4 << 30)
    code, text = confined(cli, "probe", str(path))
    assert (code, "no line" in text) == (2, True), f"exit {code}\n{text}"


@pytest.mark.boot
def test_a_stream_is_not_kept(cli: Cli, logged: bytes) -> None:
    noise = os.urandom(1 << 20)
    reading, writing = os.pipe()
    feeder = os.fork()
    if feeder == 0:
        os.close(reading)
        try:
            with open(writing, "wb") as pipe:
                for _ in range(150):
                    pipe.write(noise)
                pipe.write(logged)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        code, text = confined(cli, "probe", "-", stdin=reading)
    finally:
        os.close(reading)
        os.waitpid(feeder, 0)
    assert (code, "conforms" in text) == (0, True), f"exit {code}\n{text}"
