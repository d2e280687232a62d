"""Whatever is wrong, the command line says what and what next, in one line each, with its exit code, and leaves nothing."""

import gzip
import http.server
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cli_runner import (
    HELLO,
    HELLO_ENTRY,
    LOOP,
    TRIPLE_FAULT,
    Cli,
    Start,
    eventually,
    kernel_elf,
    pvh_note,
)
from tests.support.programs import need

KERNEL_COMMANDS = ("check", "run", "regs", "info")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", KERNEL_COMMANDS)
def test_no_such_file(cli: Cli, command: str) -> None:
    cli(command, "/nonexistent/vmlinux").complaint(2, "no file /nonexistent/vmlinux")
    cli(command, "vmlinux").complaint(2, "vmlinux is neither a file nor an address")


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"#!/bin/sh\n", ("script",)), (b"", ("empty",)), (b"\0" * 5000, ("not an ELF",)), (b"{}", ("not an ELF",)),
     (b"\x1f\x8bnonsense", ("gzip",)), (b"\x7fELF", ())],
)  # fmt: skip
def test_not_an_elf(cli: Cli, data: bytes, words: tuple[str, ...]) -> None:
    cli("check", cli.file("kernel", data)).complaint(2, *words)


def test_a_directory_is_no_kernel(cli: Cli) -> None:
    cli("check", cli.folder).complaint(2, "directory")
    cli("extract", cli.folder, "-o", "x").complaint(2, "directory")


def test_a_fifo_is_not_waited_for(cli: Cli) -> None:
    os.mkfifo(cli.folder / "fifo")
    assert cli("check", cli.folder / "fifo").seconds < 5
    cli("check", cli.folder / "fifo").complaint(2)


@pytest.mark.parametrize("note", [b"", pvh_note().replace(b"\x12", b"\x06", 1)])
def test_an_elf_without_a_usable_note(cli: Cli, note: bytes) -> None:
    cli("check", cli.file("kernel", kernel_elf(note=note))).complaint(1, "QEMU", "note")


def test_an_elf_that_qemu_enters_without_a_usable_note(cli: Cli, machine: Start) -> None:
    kernel = cli.file("kernel", kernel_elf(note=pvh_note().replace(b"Xen", b"Foo")))
    for words in ((kernel,), (machine(kernel=kernel).socket, "--kernel", kernel)):
        said = cli("check", *words).ok(1).out
        assert "PVH boot ABI, start_info version 1" in said  # what was handed over, all of it
        assert "ELF-NOTE-OWNER" in said
        assert "the kernel file VIOLATES" in said
    assert "endless loop" in cli("why", kernel, "--for", "3").out


@pytest.mark.boot
def test_the_elf_of_another_machine(cli: Cli) -> None:
    cli("check", cli.file("kernel", kernel_elf(machine=183))).complaint(3, "AArch64", "Error while loading elf kernel")


@pytest.mark.parametrize("kept", [5, 16, 40, 63, 64, 100, 150, 177, 197])
def test_a_truncated_elf(cli: Cli, kept: int) -> None:
    whole = kernel_elf()
    assert kept < len(whole)
    cli("check", cli.file("kernel", whole[:kept])).complaint(2, "bytes")


def test_hello_cut_in_the_middle(cli: Cli) -> None:
    whole = Path(HELLO).read_bytes()
    cli("check", cli.file("kernel", whole[: len(whole) // 4])).complaint(2)


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_none(cli: Cli, value: str) -> None:
    cli("check", HELLO, f"--timeout={value}").complaint(2, "timeout")


def test_no_command_and_wrong_commands(cli: Cli) -> None:
    assert cli().ok(2).out.startswith("usage: pvhdbg")
    cli("chekc").complaint(2, "chekc")
    cli("snapshot").complaint(2, "snapshot")
    cli("snapshot", "load").complaint(2, "snapshot load")
    cli("check").complaint(2, "subject")
    cli("check", HELLO, "--bogus").complaint(2, "--bogus")


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_an_unknown_rule_names_the_nearest(cli: Cli, option: str) -> None:
    cli("check", HELLO, option, "PVH-TR-LIMT").complaint(2, "PVH-TR-LIMT", "PVH-TR-LIMIT")
    cli("explain", "PVH-TR-LIMT").complaint(2, "PVH-TR-LIMIT")


def test_a_choice_of_no_rule(cli: Cli) -> None:
    for words in (("--select", ","), ("--ignore=",), ("--select", "PVH", "--ignore", "PVH"), ("--ignore", "PVH,SI,DA,ELF")):
        cli("check", HELLO, *words).complaint(2, "rule")


@pytest.mark.parametrize(
    "words",
    [("--machine", "q35"), ("--append", "x"), ("--initrd", "x"), ("--memory", "1G"), ("--cpus", "2"), ("--cpu", "max"),
     ("--qemu", "q"), ("--accel", "kvm"), ("--", "-device", "x")],
)  # fmt: skip
def test_qemu_options_fit_no_stub(cli: Cli, words: tuple[str, ...]) -> None:
    cli("check", ":1", *words).complaint(2, "words after --" if words[0] == "--" else words[0])


def test_attach_passes_nothing_on(cli: Cli) -> None:
    cli("attach", ":1", "--", "-device", "x").complaint(2, "attach", "QEMU")


@pytest.mark.parametrize("subject", [":0", ":99999", "unix:", "unix:" + HELLO, ":12:34", "", "-", "\x1b[31m"])
def test_what_is_no_address(cli: Cli, subject: str) -> None:
    cli("attach", subject).complaint(2)


def test_attach_wants_an_address(cli: Cli) -> None:
    cli("attach", HELLO).complaint(2, "not the address of a gdbstub")


def test_run_wants_a_kernel(cli: Cli) -> None:
    cli("run", ":1").complaint(2, "attach")
    cli("run", cli.file("a.pvhsnap", "{}")).complaint(2, "check")


@pytest.mark.parametrize("value", ["no_such_symbol", "-5", "0x1ffffffffffffffff", "0b"])
def test_an_entry_that_is_none(cli: Cli, value: str) -> None:
    cli("check", HELLO, f"--entry={value}").complaint(2, value)
    cli("check", ":1", f"--entry={value}").complaint(2, value)


@pytest.mark.slow
def test_an_output_that_cannot_be_written_starts_nothing(cli: Cli) -> None:
    qemu = cli.file("qemu", "#!/bin/sh\ntouch started\n")
    os.chmod(qemu, 0o755)
    for words in (("check",), ("regs",), ("info",), ("run",), ("snapshot", "save")):
        cli(*words, HELLO, "--qemu", qemu, "--output", "/nonexistent/report").complaint(2, "/nonexistent/report")
        cli(*words, HELLO, "--qemu", qemu, "--output", cli.folder).complaint(2, str(cli.folder))
        cli(*words, HELLO, "--qemu", qemu, "--output=").complaint(2, "not a file name")
        cli(*words, HELLO, "--qemu", qemu, f"--output={cli.folder}/").complaint(2, str(cli.folder))
    cli("extract", HELLO, "-o", "/nonexistent/elf").complaint(2, "/nonexistent/elf")
    assert not (cli.folder / "started").exists()


# --- QEMU ---------------------------------------------------------------------------------------------------------


def test_no_qemu(cli: Cli) -> None:
    cli("check", HELLO, "--qemu", "/nonexistent").complaint(3, "/nonexistent", "--qemu")
    cli("check", HELLO, env={"PATH": str(cli.folder)}).complaint(3, "qemu-system-x86_64 is not installed", "apt install")


@pytest.mark.boot
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--machine", "z80"), "unsupported machine type"),
        (("--cpu", "z80"), "CPU model"),
        (("--memory", "much"), "'size'"),
        (("--initrd", "/nonexistent"), "/nonexistent"),
        (("--cpus", "100000"), "Invalid SMP CPUs"),
        (("--", "-bogus"), "invalid option"),
    ],
)
def test_qemu_ends_at_once(cli: Cli, words: tuple[str, ...], said: str) -> None:
    cli("check", HELLO, *words).complaint(3, said)


def test_a_qemu_that_never_answers(cli: Cli) -> None:
    qemu = cli.file("qemu", "#!/bin/sh\nsleep 60\n")
    os.chmod(qemu, 0o755)
    ran = cli("check", HELLO, "--qemu", qemu, "--timeout", "0.3")
    ran.complaint(3, "0.3 s")
    assert ran.seconds < 3


@pytest.mark.boot
def test_no_gdb(cli: Cli) -> None:
    path = cli.folder / "bin"
    path.mkdir()
    for program in ("sh", "mkdir", "rm", "sleep", "qemu-system-x86_64"):
        (path / program).symlink_to(str(shutil.which(program)))
    cli("check", HELLO, "--via", "gdb", env={"PATH": str(path)}).complaint(3, "gdb", "install")


# --- what listens -------------------------------------------------------------------------------------------------


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that gives its first client to `talk`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        done = threading.Event()

        def serve() -> None:
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link:
                link.settimeout(10)
                try:
                    talk(link)
                    done.wait(10)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join(10)


def answers(*replies: bytes) -> Callable[[socket.socket], None]:
    """A stub with these replies to the first packets; then it closes the connection."""

    def talk(link: socket.socket) -> None:
        for reply in replies:
            _packet(link)
            link.sendall(b"+$%s#%02x" % (reply, sum(reply) & 0xFF))
        _packet(link)
        link.shutdown(socket.SHUT_RDWR)

    return talk


def _packet(link: socket.socket) -> bytes:
    data = b""
    while b"#" not in data[:-2]:
        more = link.recv(1)
        if not more:
            raise OSError
        data += more
    return data


def test_the_port_is_closed(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    cli("check", f":{port}").complaint(3, f":{port}", "refused", "-s")
    cli("attach", "unix:/nonexistent/gdb").complaint(3, "/nonexistent/gdb")


def test_nobody_listens_on_the_socket_any_more(cli: Cli) -> None:
    path = str(cli.folder / "gdb")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
    cli("check", path).complaint(3, path, "refused")


def test_the_host_has_no_address(cli: Cli) -> None:
    cli("check", "no-such-host.invalid:1234", "--timeout", "5").complaint(3, "no-such-host.invalid")


def test_an_http_server_is_named(cli: Cli) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            ran = cli("check", f":{server.server_port}", "--timeout", "5")
        finally:
            server.shutdown()
            thread.join()
    ran.complaint(3, "HTTP server")
    assert ran.seconds < 4


@pytest.mark.parametrize(
    ("banner", "named"),
    [(b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"), (b'{"QMP": {"version": {}}}\r\n', "QMP"), (b"\x1b]0;owned\x07" * 1000, "not a gdbstub")],
)
def test_somebody_else_is_named(cli: Cli, banner: bytes, named: str) -> None:
    with listening(lambda link: link.sendall(banner)) as address:
        cli("check", address, "--timeout", "5").complaint(3, named)


def test_a_stub_that_never_answers(cli: Cli) -> None:
    with listening(lambda link: None) as address:
        ran = cli("check", address, "--timeout", "0.5")
    ran.complaint(3, address, "another debugger")
    assert ran.seconds < 2


@pytest.mark.parametrize(
    "replies",
    [(), (b"PacketSize=1000",), (b"PacketSize=1000", b"T05thread:p01.01;"), (b"", b"S05", b"", b""), (b"", b"S05", b"", b"", b"", b""),
     (b"", b"S05", b"", b"", b"", b"00" * 308)],
)  # fmt: skip
def test_a_stub_that_dies_in_the_middle(cli: Cli, replies: tuple[bytes, ...]) -> None:
    with listening(answers(*replies)) as address:
        cli("check", address, "--timeout", "5").complaint(3)


@pytest.mark.parametrize(
    "replies",
    [(b"E01",) * 20, (b"OK",) * 20, (b"\x1b[31m",) * 20, (b"W00",) * 20, (b"", b"S05", b"", b"", b"zz" * 308, b"zz" * 308),
     (b"", b"S05", b"", b"4142*\xff", b"12", b"12")],
)  # fmt: skip
def test_a_stub_that_talks_nonsense(cli: Cli, replies: tuple[bytes, ...]) -> None:
    with listening(answers(*replies)) as address:
        cli("check", address, "--timeout", "1").complaint(3)


def test_a_second_debugger_is_told_so(cli: Cli, machine: Start) -> None:
    held = machine()
    with held.debugger():
        ran = cli("check", held.socket, "--timeout", "0.5")
    ran.complaint(3, "does not answer", "another debugger")
    assert ran.seconds < 2
    assert held.running()


# --- the entry is not reached -------------------------------------------------------------------------------------


@pytest.mark.boot
def test_the_entry_is_never_reached(cli: Cli) -> None:
    ran = cli("check", cli.file("kernel", kernel_elf(LOOP)), "--entry", "0x1234567", "--timeout", "1")
    ran.complaint(3, "0x1234567", "within 1 s")
    assert ran.seconds < 4


def test_the_entry_is_never_reached_in_an_attached_machine(cli: Cli, machine: Start) -> None:
    loops = machine(kernel=cli.file("kernel", kernel_elf(LOOP)))
    cli("check", loops.socket, "--entry", "0x1234567", "--timeout", "1").complaint(3, "0x1234567", "within 1 s")
    with loops.debugger() as target:  # it is stopped where it loops, and no breakpoint of ours is left at its entry
        assert target.read_registers()["rip"] == HELLO_ENTRY


@pytest.mark.boot
def test_a_triple_fault_before_the_entry(cli: Cli) -> None:
    ran = cli("check", cli.file("kernel", kernel_elf(TRIPLE_FAULT)), "--entry", "0x100010", "--timeout", "20")
    ran.complaint(3, "triple-fault")
    assert ran.seconds < 5


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "rebooted"), (("-no-reboot", "-no-shutdown"), "triple-fault"), (("-no-reboot",), "0x100010")],
)
def test_a_triple_fault_of_an_attached_machine(cli: Cli, machine: Start, words: tuple[str, ...], said: str) -> None:
    faults = machine(*words, kernel=cli.file("kernel", kernel_elf(TRIPLE_FAULT)))
    ran = cli("check", faults.socket, "--entry", "0x100010", "--timeout", "20")
    ran.complaint(3, said)
    assert ran.seconds < 5


def _waits(process: subprocess.Popen[str]) -> None:
    """Returns once the command waits for its entry, which it reports after a second."""
    assert process.stderr is not None
    assert "waiting for the guest" in process.stderr.readline()


def _killed(cli: Cli, number: int) -> None:
    """Send a signal to the command's own QEMU."""
    (qemu,) = [pid for pid in cli.processes() if os.readlink(f"/proc/{pid}/exe").rpartition("/")[2].startswith("qemu")]
    os.kill(qemu, number)


def test_a_machine_that_falls_silent(cli: Cli, machine: Start) -> None:
    loops = machine(kernel=cli.file("kernel", kernel_elf(LOOP)))
    with cli.start("check", loops.socket, "--entry", "0x1234567", "--timeout", "2.5") as process:
        _waits(process)
        loops.process.send_signal(signal.SIGSTOP)
        ran = cli.ended(process)
    loops.process.send_signal(signal.SIGCONT)
    ran.complaint(3)
    assert ran.seconds < 9  # three waits: for the entry, for the interrupt, for the registers


def test_a_machine_that_is_killed_meanwhile(cli: Cli, machine: Start) -> None:
    loops = machine(kernel=cli.file("kernel", kernel_elf(LOOP)))
    with cli.start("check", loops.socket, "--entry", "0x1234567") as process:
        _waits(process)
        loops.process.kill()
        ran = cli.ended(process)
    ran.complaint(3, loops.socket)
    assert ran.seconds < 2


@pytest.mark.boot
def test_our_qemu_is_killed_meanwhile(cli: Cli) -> None:
    with cli.start("check", cli.file("kernel", kernel_elf(LOOP)), "--entry", "0x1234567") as process:
        _waits(process)
        _killed(cli, signal.SIGKILL)
        ran = cli.ended(process)
    ran.complaint(3, "QEMU was killed by SIGKILL", "--memory")
    assert ran.seconds < 2


@pytest.mark.boot
def test_our_qemu_is_killed_while_it_is_traced(cli: Cli) -> None:
    with cli.start("trace", cli.file("kernel", kernel_elf(LOOP)), "--for", "20", "-o", "trace.jsonl") as process:
        assert process.stderr is not None
        while "tracing" not in process.stderr.readline():
            assert process.poll() is None
        _killed(cli, signal.SIGBUS)
        ran = cli.ended(process)
    assert "ended: the machine is gone: QEMU was killed by SIGBUS" in ran.ok().out


# --- signals and closed pipes -------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.parametrize("via", ["remote", "gdb"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_the_wait_and_qemu(cli: Cli, number: int, code: int, via: str) -> None:
    need("gdb")
    with cli.start("check", cli.file("kernel", kernel_elf(LOOP)), "--entry", "0x1234567", "--via", via) as process:
        _waits(process)
        process.send_signal(number)
        ran = cli.ended(process)
    assert ran.code == code
    assert "Traceback" not in ran.err
    assert ran.seconds < 2
    cli.nothing_left()


@pytest.mark.parametrize("leave", ["stopped", "running", "killed"])
def test_a_signal_leaves_an_attached_machine_as_asked(cli: Cli, machine: Start, leave: str) -> None:
    loops = machine(kernel=cli.file("kernel", kernel_elf(LOOP)))
    with cli.start("check", loops.socket, "--entry", "0x1234567", "--leave", leave) as process:
        _waits(process)
        process.send_signal(signal.SIGINT)
        ran = cli.ended(process)
    assert ran.code == 130
    assert ran.seconds < 2
    if leave == "killed":
        eventually(lambda: not loops.running(), "QEMU still runs")
        return
    with loops.debugger() as target:
        assert target.read_registers()["rip"] == HELLO_ENTRY
        target.resume()  # nothing stops it: no breakpoint is left where it loops
        target.interrupt()


@pytest.mark.parametrize(
    "words",
    [
        ("rules",),
        ("explain", "PVH-TR-LIMIT"),
        ("--help",),
        ("check", "--help"),
        ("--version",),
        pytest.param(("check", HELLO, "--format", "json"), marks=pytest.mark.boot),  # the verdict stays the verdict
    ],
)
def test_a_reader_that_leaves_early(cli: Cli, words: tuple[str, ...]) -> None:
    with cli.start(*words) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        ran = cli.ended(process)
    assert ran.err == ""
    assert ran.code == 0


def test_a_full_disk(cli: Cli) -> None:
    with open("/dev/full", "w") as full:
        ran = cli("rules", stdout=full)
    ran.complaint(2, "no space left")


def test_stdout_is_closed(cli: Cli) -> None:
    words = [sys.executable, "-m", "pvhdbg", "check", "/nonexistent"]
    for closed, code in ((">&-", 2), ("2>&-", 2), ("2>/dev/full", 2), ("<&-", 2)):
        command = f"exec {shlex.join(words)} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=cli.env, cwd=cli.folder, check=False)
        assert done.returncode == code, done
        assert "internal error" not in done.stderr
        assert "Traceback" not in done.stderr


# --- standard streams, and options given twice ---------------------------------------------------------------------


def piped(cli: Cli, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pvhdbg", *words],
        input=data,
        capture_output=True,
        timeout=60,
        env=cli.env,
        cwd=cli.folder,
        check=False,
    )


@pytest.mark.boot
def test_a_dash_is_standard_input(cli: Cli) -> None:
    data = Path(HELLO).read_bytes()
    seen = piped(cli, data, "elf", "-")
    assert (seen.returncode, seen.stderr) == (0, b"")
    assert b"PHYS32_ENTRY" in seen.stdout
    for command in ("check", "info", "regs"):
        ran = piped(cli, data, command, "-", "--append", "by a pipe")
        assert ran.returncode == 0, ran.stderr
    assert b"by a pipe" in piped(cli, data, "info", "-", "--append", "by a pipe").stdout
    cli("snapshot", "save", HELLO, "--append", "kept", "-o", "boot.pvhsnap").ok()
    assert b"kept" in piped(cli, (cli.folder / "boot.pvhsnap").read_bytes(), "info", "-").stdout
    nothing = piped(cli, b"", "elf", "-")
    assert nothing.returncode == 2
    assert b"is empty" in nothing.stderr
    assert b"named twice" in piped(cli, data, "diff", "-", "-").stderr


def test_extract_writes_to_standard_output(cli: Cli) -> None:
    data = Path(HELLO).read_bytes()
    packed = cli.file("hello.gz", gzip.compress(data))
    ran = piped(cli, b"", "extract", packed, "-o", "-")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, data, b"")
    both = piped(cli, gzip.compress(data), "extract", "-", "-o", "-")
    assert (both.returncode, both.stdout) == (0, data)
    assert not (cli.folder / "-").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", HELLO, "-M", "q35", "--machine", "microvm"], "--machine is given twice: q35 and microvm"),
        (["check", HELLO, "--format", "json", "--format", "text"], "--format is given twice"),
        (["elf", HELLO, "--symbol", "a", "--symbol", "b"], "--symbol is given twice"),
        (["run", HELLO, "-m", "1G", "-m2G"], "--memory is given twice"),
    ],
)
def test_an_option_that_has_one_value_given_twice(cli: Cli, words: list[str], said: str) -> None:
    cli(*words).complaint(2, said)
    cli("elf", HELLO, "--as", "qemu", "--as", "xen").ok()  # that is a list
