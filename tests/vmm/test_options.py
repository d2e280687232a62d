"""The arguments that QEMU gets. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import BadInput
from pvhdbg.vmm.options import QemuOptions, Sockets, command_line, option_names

SOCKETS = Sockets("/t/gdb", "/t/qmp", "/t/serial")


def values_of(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, argument in enumerate(argv) if argument == option]


def test_the_defaults_are_a_plain_machine_that_waits() -> None:
    argv = command_line(QemuOptions("kernel.elf"), SOCKETS)
    assert argv == [
        "qemu-system-x86_64", "-kernel", "kernel.elf", "-m", "512M", "-accel", "tcg", "-nic", "none",
        "-serial", "file:/t/serial", "-display", "none", "-monitor", "none", "-no-reboot", "-no-shutdown",
        "-S", "-gdb", "unix:/t/gdb,server=on,wait=off", "-qmp", "unix:/t/qmp,server=on,wait=off",
    ]  # fmt: skip


def test_every_wish_becomes_its_option() -> None:
    wish = QemuOptions("k", "console=ttyS0 a,b", "i.gz", "q35", "1G", 2, "max", "kvm", "/opt/qemu", ("-device", "x"))
    argv = command_line(wish, SOCKETS)
    assert argv[0] == "/opt/qemu"
    assert argv[-2:] == ["-device", "x"]
    for option, value in {
        "-append": "console=ttyS0 a,b", "-initrd": "i.gz", "-machine": "q35", "-m": "1G", "-smp": "2", "-cpu": "max", "-accel": "kvm",
    }.items():  # fmt: skip
        assert values_of(argv, option) == [value]


def test_an_empty_command_line_is_passed_on() -> None:
    assert values_of(command_line(QemuOptions("k", append=""), SOCKETS), "-append") == [""]


def test_auto_lets_qemu_fall_back() -> None:
    assert values_of(command_line(QemuOptions("k", accel="auto"), SOCKETS), "-accel") == ["kvm", "tcg"]


@pytest.mark.parametrize(
    ("extra", "ours"),
    [
        (("-m", "64M"), "-m"),
        (("-accel", "kvm"), "-accel"),
        (("-enable-kvm",), "-accel"),
        (("-machine", "accel=kvm"), "-accel"),
        (("--serial", "stdio"), "-serial"),
        (("-nic", "user"), "-nic"),
        (("-netdev", "user,id=n"), "-nic"),
    ],
)
def test_what_the_user_says_replaces_ours(extra: tuple[str, ...], ours: str) -> None:
    argv = command_line(QemuOptions("k", extra=extra), SOCKETS)
    assert ours not in argv[: -len(extra)]
    assert tuple(argv[-len(extra) :]) == extra


def test_an_accelerator_in_the_machine_is_enough() -> None:
    assert "-accel" not in command_line(QemuOptions("k", machine="q35,accel=kvm"), SOCKETS)


@pytest.mark.parametrize("option", ["-s", "-gdb", "--gdb", "-daemonize", "-kernel", "-preconfig"])
def test_options_that_pvhdbg_needs_are_refused_by_name(option: str) -> None:
    with pytest.raises(BadInput, match=f"-{option.lstrip('-')} ") as caught:
        command_line(QemuOptions("k", extra=(option, "x")), SOCKETS)
    assert caught.value.todo


def test_the_value_of_append_is_no_option() -> None:
    assert option_names(["-append", "-s", "-m", "1G"]) == {"append", "m"}
    command_line(QemuOptions("k", extra=("-append", "-s")), SOCKETS)


def test_commas_in_a_socket_path_are_doubled() -> None:
    argv = command_line(QemuOptions("k"), Sockets("/a,b/gdb", "/a,b/qmp", "/a,b/serial"))
    assert values_of(argv, "-gdb") == ["unix:/a,,b/gdb,server=on,wait=off"]
    assert values_of(argv, "-serial") == ["file:/a,b/serial"]


def test_an_unknown_accelerator_is_refused() -> None:
    with pytest.raises(BadInput, match="'hax'"):
        command_line(QemuOptions("k", accel="hax"), SOCKETS)


@pytest.mark.parametrize("wish", [QemuOptions("a\0b"), QemuOptions("k", append="\0"), QemuOptions("k", extra=("\0",))])
def test_a_zero_byte_is_refused(wish: QemuOptions) -> None:
    with pytest.raises(BadInput, match="zero byte"):
        command_line(wish, SOCKETS)


@given(st.text(st.characters(exclude_characters="\0")), st.text(st.characters(exclude_characters="\0")))
def test_names_and_texts_arrive_unchanged(kernel: str, append: str) -> None:
    argv = command_line(QemuOptions(kernel, append), SOCKETS)
    assert argv[1:5] == ["-kernel", kernel, "-append", append]


@pytest.mark.parametrize("wish", [{"cpus": 0}, {"cpus": -1}, {"memory": ""}, {"machine": ""}, {"cpu": ""}, {"qemu": ""}])
def test_an_empty_wish_is_no_default(wish: dict[str, object]) -> None:
    with pytest.raises(BadInput) as error:
        command_line(QemuOptions("kernel.elf", **wish), SOCKETS)  # type: ignore[arg-type]
    assert error.value.todo
