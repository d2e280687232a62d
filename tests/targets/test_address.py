"""Addresses as users write them."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import BadInput
from pvhdbg.targets.address import StubAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":1234", StubAddress("localhost", 1234)),
        ("host:1234", StubAddress("host", 1234)),
        ("tcp:host:1", StubAddress("host", 1)),
        ("tcp::1234", StubAddress("localhost", 1234)),
        ("[::1]:1234", StubAddress("::1", 1234)),
        ("unix:/run/gdb", StubAddress(path="/run/gdb")),
        ("unix:/run/gdb,server=on", StubAddress(path="/run/gdb")),
    ],
)
def test_what_is_an_address(text: str, address: StubAddress) -> None:
    assert parse_address(text) == address


def test_a_sockets_path_is_an_address(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert parse_address(path) == StubAddress(path=path)


@pytest.mark.parametrize(
    "text", [":0", ":65536", ":99999", "1234", "", "unix:", "host", "a b:1", "/no/such", "/tmp", "/etc/passwd", "host:12x"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_address(text)
    assert error.value.todo


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_bad_input(text: str) -> None:
    try:
        assert isinstance(parse_address(text), StubAddress)
    except BadInput as error:
        assert error.todo  # noqa: PT017
