"""An address that GDB would take for a shell command: it is a path, or it is refused."""

import os
from collections.abc import Callable

import pytest

from pvhdbg.errors import BadInput
from pvhdbg.targets.address import StubAddress, parse_address
from tests.support.cli_runner import HELLO, Cli, Machine

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    "words", [("check", "unix:| touch pwned", "--via", "gdb"), ("gdb", HELLO, "unix:| touch pwned", "--", "-batch")]
)
def test_no_address_is_a_shell_command(cli: Cli, words: tuple[str, ...]) -> None:
    cli(*words)
    assert not (cli.folder / "pwned").exists()


def test_a_socket_may_have_any_name_that_gdb_can_be_given(cli: Cli, machine: Callable[..., Machine]) -> None:
    found = machine("-accel", "tcg")
    os.symlink(found.socket, cli.folder / "|touch pwned;")
    ran = cli("check", "|touch pwned;", "--via", "gdb", "--kernel", HELLO)
    assert "the hand-off" in ran.ok().out
    assert not (cli.folder / "pwned").exists()


@pytest.mark.parametrize("path", ["/tmp/a:b", "/tmp/a\n!touch x", "/tmp/a "])
def test_what_gdb_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        StubAddress(path=path).for_gdb()


def test_hosts(tmp_path: object) -> None:
    assert parse_address(":1234").for_gdb() == "localhost:1234"
    assert parse_address("[::1]:1234").for_gdb() == "[::1]:1234"
