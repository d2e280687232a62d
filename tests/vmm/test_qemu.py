"""QEMU is started, waits at its first instruction, says why when it cannot, and is never left behind."""

import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.errors import BadInput, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.guests import path as guest
from pvhdbg.vmm.qemu import QemuOptions, start, version_of
from pvhdbg.vmm.qmp import Qmp
from tests.support.cli_runner import ROOT, eventually
from tests.support.debugged import EXIT_DEVICE

pytestmark = pytest.mark.boot

HELLO = guest("hello")
PT_NOTE_AT = 64 + 2 * 56  # of hello.elf: the third program header


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder for temporary files of this test alone. Nothing may be left in it, and no process that names it."""
    folder = tempfile.mkdtemp(prefix="pt-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield folder
    try:
        eventually(lambda: not os.listdir(folder), f"files are left: {os.listdir(folder)}")
        eventually(lambda: not processes_naming(folder), f"processes are left: {processes_naming(folder)}")
    finally:
        for pid in processes_naming(folder):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def processes_naming(text: str) -> list[int]:
    """The processes with `text` among their arguments; a zombie has none."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if text.encode() in Path("/proc", entry, "cmdline").read_bytes():
                    found.append(int(entry))
            except OSError:
                pass  # it ended meanwhile
    return found


def let_run(socket: str) -> None:
    with Qmp(socket) as qmp:
        qmp.execute("cont")


# ---- a kernel that boots ----


def test_it_waits_and_then_runs_and_tells_what_it_is(place: str) -> None:
    steps: list[str] = []
    with start(QemuOptions(HELLO), progress=steps.append) as qemu:
        assert qemu.poll() is None
        assert int(qemu.version.split(".")[0]) >= 4
        assert qemu.accelerator == "tcg"
        assert stat.S_ISSOCK(os.stat(qemu.gdb_socket).st_mode)
        folder = os.path.dirname(qemu.gdb_socket)
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert os.path.dirname(folder) == place
        with qemu.qmp() as qmp:
            assert qmp.execute("query-status")["status"] == "prelaunch"
        assert qemu.serial_tail() == []
        let_run(qemu.qmp_socket)
        eventually(lambda: qemu.serial_tail() == ["hello from PVH"], f"serial: {qemu.serial_tail()}")
    assert qemu.poll() is not None
    assert qemu.serial_tail(1) == ["hello from PVH"]  # also afterwards
    assert not os.path.exists(folder)
    assert len(steps) == 2


def test_the_guests_exit_status_is_seen(place: str) -> None:
    with start(QemuOptions(HELLO, extra=EXIT_DEVICE)) as qemu:
        let_run(qemu.qmp_socket)
        assert qemu.wait(5) == 33
        with pytest.raises(TargetLost):
            qemu.qmp()
    qemu.close()  # twice is once
    assert qemu.poll() == 33


def test_it_has_a_session_of_its_own_and_only_its_own_files(place: str) -> None:
    with start(QemuOptions(HELLO)) as qemu:
        assert os.getsid(qemu.pid) == qemu.pid
        targets = [os.readlink(f"/proc/{qemu.pid}/fd/{fd}") for fd in (0, 1, 2)]
        assert targets[0] == "/dev/null"
        assert targets[1] == targets[2] == str(Path(qemu.gdb_socket).with_name("messages"))
        ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
        theirs = {os.readlink(f"/proc/{qemu.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{qemu.pid}/fd")}
        assert not {name for name in ours & theirs if name.startswith(("pipe:", "socket:"))}


def test_names_with_commas_and_dashes(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(HELLO, "-k,x y")
    Path("-i,d").write_bytes(b"initrd")
    monkeypatch.setattr(tempfile, "tempdir", os.path.join(place, "a, b"))
    os.mkdir(os.path.join(place, "a, b"))
    with start(QemuOptions("-k,x y", "a,b -c", "-i,d", extra=EXIT_DEVICE)) as qemu:
        let_run(qemu.qmp_socket)
        assert qemu.wait(5) == 33
    os.rmdir(os.path.join(place, "a, b"))


def test_a_long_place_does_not_break_the_sockets(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = os.path.join(place, "x" * 100)
    os.mkdir(deep)
    monkeypatch.setattr(tempfile, "tempdir", deep)
    with start(QemuOptions(HELLO)) as qemu:
        assert len(qemu.gdb_socket) < 100
    assert not os.path.exists(os.path.dirname(qemu.gdb_socket))
    os.rmdir(deep)


def test_auto_takes_what_works(place: str) -> None:
    with start(QemuOptions(HELLO, accel="auto")) as qemu:
        assert qemu.accelerator in ("kvm", "tcg")


# ---- what cannot be started ----


def spoilt(tmp_path: Path, name: str) -> Path:
    """hello.elf with one thing wrong; `missing` and `folder` as they say."""
    data = bytearray(HELLO.read_bytes())
    assert struct.unpack_from("<I", data, PT_NOTE_AT)[0] == 4
    if name == "no note":
        struct.pack_into("<I", data, PT_NOTE_AT, 0x6474E551)
    elif name == "p_align 0":
        struct.pack_into("<Q", data, PT_NOTE_AT + 48, 0)
    elif name == "cut short":
        del data[0x1010:]
    elif name == "other machine":
        struct.pack_into("<H", data, 18, 183)
    elif name == "multiboot":
        struct.pack_into("<III", data, 0x800, 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    elif name == "garbage":
        data = bytearray(random.Random(7).randbytes(9000))
    elif name == "empty":
        data.clear()
    kernel = tmp_path / "kernel"
    if name == "folder":
        kernel.mkdir()
    elif name != "missing":
        kernel.write_bytes(data)
    return kernel


@pytest.mark.parametrize(
    ("name", "what", "todo"),
    [
        ("no note", "without PVH ELF Note", "PVH note"),
        ("p_align 0", "SIGFPE", "p_align"),
        ("cut short", "loading elf kernel", "cut short"),
        ("other machine", "loading elf kernel", "another machine"),
        ("multiboot", "x86-64 image", "multiboot"),
        ("garbage", "invalid kernel header", "neither an ELF"),
        ("empty", "could not load kernel", "empty"),
        ("missing", "No such file", "path"),
        ("folder", "s a directory", "path"),
    ],
)
def test_a_bad_kernel_is_named_with_qemus_own_words(place: str, tmp_path: Path, name: str, what: str, todo: str) -> None:
    with pytest.raises(VmmFailed) as caught:
        start(QemuOptions(spoilt(tmp_path, name)))
    assert what in caught.value.what
    assert todo in caught.value.todo


@pytest.mark.parametrize(
    ("wish", "what", "todo"),
    [
        (QemuOptions(HELLO, machine="nosuch"), "unsupported machine type", "-machine help"),
        (QemuOptions(HELLO, cpu="nosuch"), "nosuch", "-cpu help"),
        (QemuOptions(HELLO, cpus=99999), "SMP", "--cpus"),
        (QemuOptions(HELLO, memory="lots"), "size", "512M"),
        (QemuOptions(HELLO, initrd="/nonexistent\x1b[2J"), r"\x1b[2J", "initrd"),
        (QemuOptions(HELLO, extra=("--nosuch",)), "invalid option", "-help"),
        (QemuOptions(HELLO, extra=("-version",)), "exit status 0", "by hand"),
        (QemuOptions(HELLO, qemu="qemu-system-nosuch"), "not installed", "apt install"),
        (QemuOptions(HELLO, qemu="/etc/passwd"), "not a program", "--qemu"),
        (QemuOptions(HELLO, qemu="/bin/false"), "without a message", "by hand"),
    ],
)
def test_a_bad_wish_is_named(place: str, wish: QemuOptions, what: str, todo: str) -> None:
    with pytest.raises(VmmFailed) as caught:
        start(wish)
    assert what in caught.value.what
    assert todo in caught.value.todo
    assert caught.value.what.isprintable()


def test_an_option_of_ours_is_refused_before_anything_starts(place: str) -> None:
    with pytest.raises(BadInput, match="-gdb"):
        start(QemuOptions(HELLO, extra=("-gdb", "tcp::1234")))


def test_a_program_that_never_answers_costs_the_timeout(place: str, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\ntrap '' TERM\nexec sleep 60\n")
    stuck.chmod(0o755)
    before = time.monotonic()
    with pytest.raises(TargetTimeout, match=r"0\.3 s"):
        start(QemuOptions(HELLO, qemu=str(stuck)), timeout=0.3)
    assert time.monotonic() - before < 3.0  # one second to be polite, then it is killed
    assert not processes_naming(str(stuck))


def test_no_folder_can_be_made(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(VmmFailed, match="folder") as caught:
        start(QemuOptions(HELLO))
    assert "TMPDIR" in caught.value.todo


# ---- nothing is left behind ----


def test_an_exception_in_the_body(place: str) -> None:
    def run() -> None:
        with start(QemuOptions(HELLO)) as qemu:
            let_run(qemu.qmp_socket)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_an_exception_from_the_progress_watch(place: str) -> None:
    def cancel(step: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(QemuOptions(HELLO), progress=cancel)


def test_twenty_in_a_row_leave_no_file_descriptor(place: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        start(QemuOptions(HELLO)).close()
        assert os.listdir(place) == []
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_two_at_a_time(place: str) -> None:
    with start(QemuOptions(HELLO)) as one, start(QemuOptions(HELLO)) as other:
        one.close()
        assert other.poll() is None
        with other.qmp() as qmp:
            assert qmp.execute("query-status")["status"] == "prelaunch"


def test_qemu_stopped_by_a_signal_is_killed(place: str) -> None:
    with start(QemuOptions(HELLO)) as qemu:
        os.kill(qemu.pid, signal.SIGSTOP)
    assert qemu.poll() == -signal.SIGKILL


USER = """
import select, sys, tempfile, subprocess
from pvhdbg.vmm.qemu import QemuOptions, start, version_of
tempfile.tempdir = sys.argv[1]
print("here", flush=True)
with start(QemuOptions(sys.argv[2])) as qemu:
    child = subprocess.Popen(["sleep", "30"], close_fds=False)  # it must not keep the guardian waiting
    print(qemu.pid, qemu.gdb_socket, child.pid, flush=True)
    if len(sys.argv) > 3:
        child.kill()
        child.wait()
        qemu.release()
    else:
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass  # Python would notice a signal that comes just before a blocking read only after it
"""


def user_of_pvhdbg(place: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USER, place, str(HELLO), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_however_pvhdbg_dies(place: str, number: signal.Signals) -> None:
    with user_of_pvhdbg(place) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdout.readline()
        qemu, socket, child = user.stdout.readline().split()
        assert os.path.exists(socket)
        os.kill(user.pid, number)
        try:
            eventually(lambda: not os.listdir(place), "the folder is left")
            eventually(lambda: not processes_naming(place), "QEMU is left")
            assert int(qemu) not in processes_naming(str(HELLO))
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_ctrl_c_in_the_terminal_goes_to_pvhdbg_alone(place: str) -> None:
    """The terminal signals a process group; neither QEMU nor the guardian is in it."""
    with user_of_pvhdbg(place) as user:
        assert user.stdout is not None
        user.stdout.readline()
        user.stdout.readline()
        groups = {os.getpgid(pid) for pid in processes_naming(os.path.join(place, "pvhdbg-"))}
        assert len(groups) == 2
        assert user.pid not in groups
        os.killpg(user.pid, signal.SIGINT)


def test_killed_at_any_moment_of_the_start(place: str) -> None:
    for delay in range(0, 40, 5):
        with user_of_pvhdbg(place) as user:
            assert user.stdout is not None
            user.stdout.readline()
            time.sleep(delay / 1000)  # not a wait for anything: the moment is what is tested
            os.killpg(user.pid, signal.SIGKILL)
        eventually(lambda: not processes_naming(place), f"left after {delay} ms: {processes_naming(place)}")
        eventually(lambda: not os.listdir(place), f"left after {delay} ms: {os.listdir(place)}")


def test_a_released_qemu_lives_on_and_its_folder_goes_with_it(place: str) -> None:
    with user_of_pvhdbg(place, "release") as user:
        out, _ = user.communicate(timeout=10)
    assert user.returncode == 0
    qemu, socket, _ = out.split("\n")[1].split()
    try:
        assert int(qemu) in processes_naming(place)
        let_run(os.path.join(os.path.dirname(socket), "qmp"))
    finally:
        os.kill(int(qemu), signal.SIGKILL)
    eventually(lambda: not os.listdir(place), "the folder is left", within=4.0)


# ---- floods ----

FLOOD = """
        .section .note.Xen, "a", @note
        .long 4, 4, 18
        .asciz "Xen"
        .long pvh_start
        .text
        .code32
        .globl pvh_start
pvh_start: movw $0x3f8, %dx
        movb $65, %al
1:      outb %al, %dx
        jmp 1b
"""


@pytest.fixture
def flood(tmp_path: Path) -> Path:
    """A kernel that writes to COM1 for ever and never ends a line."""
    (tmp_path / "flood.S").write_text(FLOOD)
    script = ROOT / "sample_guests" / "guest.ld"
    subprocess.run(["as", "--64", "-mx86-used-note=no", "-o", "flood.o", "flood.S"], cwd=tmp_path, check=True)
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-z", "noexecstack", "-T", str(script), "-o", "flood.elf", "flood.o"], cwd=tmp_path, check=True
    )
    return tmp_path / "flood.elf"


def test_a_flood_on_the_serial_port_never_makes_the_guest_wait(place: str, flood: Path) -> None:
    with start(QemuOptions(flood)) as qemu:
        let_run(qemu.qmp_socket)
        eventually(lambda: qemu.serial_log.stat().st_size > 1_000_000, "the guest is held up", within=20)
        (line,) = qemu.serial_tail()
        assert line.startswith("AAAA")
        assert len(line) < 500
        with qemu.qmp() as qmp:
            assert qmp.execute("query-status")["running"] is True


def test_a_flood_of_messages_never_makes_qemu_wait(place: str, flood: Path) -> None:
    with start(QemuOptions(flood, extra=("-d", "exec,nochain"))) as qemu:
        messages = Path(qemu.gdb_socket).with_name("messages")
        let_run(qemu.qmp_socket)
        eventually(lambda: messages.stat().st_size > 10_000_000, "QEMU is held up", within=20)
        assert len(qemu.stderr_tail(7)) == 7
        assert all(line.startswith("Trace") for line in qemu.stderr_tail(7)[:-1])
    assert sum(map(len, qemu.stderr_tail(10**6))) < 100_000
    assert qemu.stderr_tail(0) == []


def test_a_version_without_a_boot(tmp_path: Path) -> None:
    with start(QemuOptions(guest("hello"), memory="64M")) as qemu:
        assert version_of() == version_of("qemu-system-x86_64") == qemu.version
    with pytest.raises(VmmFailed, match="not a program"):
        version_of("/nonexistent/qemu")
    other = tmp_path / "qemu"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    with pytest.raises(VmmFailed, match="does not report its version as QEMU does"):
        version_of(str(other))
