"""`--serial FILE`: what COM1 writes is kept, wherever the user's own -serial sends it."""

import pytest

from pvhdbg.errors import BadInput
from pvhdbg.vmm.serial_copy import with_copy
from tests.support.cli_runner import HELLO, Cli

RUN = ("-ex", "b halt", "-ex", "c")


@pytest.mark.boot
@pytest.mark.parametrize(
    "own",
    [
        (),
        ("-serial", "null"),
        ("-serial", "file:elsewhere, with a comma"),
        ("-serial", "mon:stdio"),
        ("-serial", "unix:socket,server=on,wait=off"),
        ("-chardev", "null,id=mine", "-serial", "chardev:mine"),
    ],
    ids=["none", "null", "file", "mon", "unix", "chardev"],
)
def test_it_is_kept_whatever_serial_says(own: tuple[str, ...], cli: Cli) -> None:
    kept = cli.file("a,b.log", "of an earlier boot\n")
    ran = cli("repl", HELLO, "--batch", "--serial", kept, *RUN, *(("--", *own) if own else ())).ok()
    assert "| hello from PVH" in ran.out  # the prompt follows it too
    assert (cli.folder / "a,b.log").read_text().replace("\r", "") == "hello from PVH\n"
    if "file:elsewhere, with a comma" in own:
        assert "hello from PVH" in (cli.folder / "elsewhere, with a comma").read_text()


@pytest.mark.boot
def test_a_line_is_waited_for_where_serial_is_redirected(cli: Cli) -> None:
    own = ("--", "-serial", "null")
    cli("trace", HELLO, "--until", "serial:hello", "--serial", "kept", *own).ok()
    cli("trace", HELLO, "--until", "serial:hello", *own).complaint(2, "-serial redirects", "--serial FILE")


def test_a_file_that_cannot_be_written(cli: Cli) -> None:
    cli("check", HELLO, "--serial", "/nonexistent/log").complaint(2, "cannot be written")
    cli("check", ":1", "--serial", "log").complaint(2, "--serial")


@pytest.mark.parametrize(
    ("value", "chardev"),
    [
        ("stdio", "stdio"),
        ("pipe:/tmp/p", "pipe,path=/tmp/p"),
        ("tcp::4444,server=on,wait=off", "socket,host=,port=4444,server=on,wait=off"),
        ("telnet:localhost:23,server=on", "socket,host=localhost,port=23,telnet=on,server=on"),
    ],
)
def test_short_forms_are_written_out(value: str, chardev: str) -> None:
    assert with_copy(["-serial", value], "/log") == [
        "-chardev", f"{chardev},id=pvhdbg-serial,logfile=/log,logappend=off", "-serial", "chardev:pvhdbg-serial"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("-serial",),
        ("-serial", "none"),
        ("-serial", "udp:1"),
        ("-serial", "tcp:nowhere"),
        ("-serial", "chardev:missing"),
        ("-chardev", "null,id=a,logfile=x", "-serial", "chardev:a"),
    ],
)
def test_what_cannot_be_kept_says_so(words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput):
        with_copy(words, "/log")
