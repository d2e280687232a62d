"""What QEMU said last becomes one line and a next step."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import VmmFailed
from pvhdbg.vmm.failures import DEFAULT_REMEDY, check_version, ended_at_once, killed, not_installed


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note", "PVH note"),
        ("qemu: invalid kernel header", "neither an ELF"),
        ('qemu-system-x86_64: unsupported machine type: "x"', "-machine help"),
        ("qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied", "/dev/kvm"),
        ("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory", "--memory"),
        ("something new", DEFAULT_REMEDY),
    ],
)
def test_known_messages_have_a_remedy(said: str, todo: str) -> None:
    error = ended_at_once(
        "qemu", 1, ["qemu: warning: something without PVH ELF Note", said, "Use -machine help to list supported machines", ""]
    )
    if todo is not DEFAULT_REMEDY:
        assert said in error.what
    assert "exit status 1" in error.what
    assert todo in error.todo


def test_a_signal_is_named() -> None:
    assert "SIGFPE" in ended_at_once("qemu", -8, []).what
    assert "p_align 0" in ended_at_once("qemu", -8, []).todo
    assert "signal 64" in ended_at_once("qemu", -64, []).what.replace("SIGRTMAX", "signal 64")


@pytest.mark.parametrize(
    ("number", "free", "what", "todo"),
    [
        (signal.SIGBUS, 4096, "killed by SIGBUS; /tmp is full", "set TMPDIR"),
        (signal.SIGBUS, 1 << 30, "killed by SIGBUS", "QEMU crashed"),
        (signal.SIGSEGV, None, "killed by SIGSEGV", "QEMU crashed"),
        (signal.SIGKILL, 1 << 30, "killed by SIGKILL", "out of memory"),
        (signal.SIGUSR1, 1 << 30, "killed by SIGUSR1", "who sends signals"),
    ],
)
def test_a_signal_to_a_running_qemu_is_not_the_guest_s_end(number: int, free: int | None, what: str, todo: str) -> None:
    error = killed(number, "/tmp", free, ["", "last \x1b[2Jwords"])
    assert what.split(";")[0] in error.what
    assert ("is full" in error.what) == ("is full" in what)
    assert todo in error.todo
    assert "last \\x1b[2Jwords" in error.what


@given(st.integers(-200, 255), st.lists(st.text(), max_size=20))
def test_any_last_words_become_one_safe_line(status: int, output: list[str]) -> None:
    error = ended_at_once("qemu", status, output)
    for text in (error.what, error.todo):
        assert text
        assert text.isprintable()
    assert len(error.what) < 400


def test_old_versions_are_refused() -> None:
    for version in ("3.1.0 (Debian 1:3.1+dfsg-8)", "2.12.0", "0.15.1"):
        with pytest.raises(VmmFailed, match=r"need 4\.0"):
            check_version(version)
    for version in ("4.0.0", "7.2.22 (Debian 1:7.2+dfsg-7)", "10.0.2", "unknown"):
        check_version(version)


def test_a_missing_program_says_how_to_get_it() -> None:
    assert "apt install qemu-system-x86" in not_installed("qemu-system-x86_64").todo
    assert "--qemu" in not_installed("/opt/nothing").todo
