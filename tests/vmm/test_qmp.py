"""The control connection against a peer that sends anything. The good case is tested with QEMU in test_qemu.py."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.errors import ProtocolError, TargetError, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.vmm.qmp import LONGEST_LINE, Qmp, version_text
from tests.support.sorting import examples

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": []}}\r\n'
READY = b'{"return": {}, "id": 1}\r\n'


class Peer:
    """A socket that says `words` to its first client and then hangs up, or waits for the client to do so."""

    def __init__(self, words: bytes, hold: bool) -> None:
        self.folder = tempfile.mkdtemp(prefix="q-")
        self.path = os.path.join(self.folder, "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._talk, args=(words, hold))
        self._thread.start()

    def _talk(self, words: bytes, hold: bool) -> None:
        client, _ = self._listener.accept()
        with client:
            try:
                client.sendall(words)
                if not hold:
                    client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
            except OSError:
                pass  # the client hung up first

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()
        shutil.rmtree(self.folder)
        assert not self._thread.is_alive()


def converse(words: bytes, hold: bool = False, timeout: float = 2.0) -> object:
    with Peer(words, hold) as peer, Qmp(peer.path, timeout) as qmp:
        return qmp.execute("query-status")


def test_events_and_other_replies_are_passed_over() -> None:
    words = GREETING + READY + b'{"event": "STOP"}\n{"return": 1, "id": 99}\n{"return": {"status": "paused"}, "id": 2}\n'
    assert converse(words) == {"status": "paused"}


def test_a_refusal_names_the_command_and_the_reason_escaped() -> None:
    with pytest.raises(VmmFailed, match=r"refused query-status: no \\x1b\[2J"):
        converse(GREETING + READY + b'{"error": {"class": "E", "desc": "no \\u001b[2J"}, "id": 2}\n')


@pytest.mark.parametrize(
    "words",
    [
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'{"QMP": 1}\n',
        b'{"QMP": {"version": {"qemu": {"major": []}}}}\n',
        b"[" * 200_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_another_protocol_is_refused(words: bytes) -> None:
    with pytest.raises(ProtocolError):
        converse(words)


def test_a_line_without_end_is_bounded() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        converse(b"x" * (LONGEST_LINE * 3), hold=True)


def test_a_peer_that_hangs_up_is_lost() -> None:
    with pytest.raises(TargetLost):
        converse(GREETING + READY)


def test_a_silent_peer_costs_the_timeout_and_no_more() -> None:
    before = time.monotonic()
    with pytest.raises(TargetTimeout):
        converse(GREETING, hold=True, timeout=0.1)
    assert time.monotonic() - before < 1.0


def test_a_peer_that_only_sends_events_times_out() -> None:
    with pytest.raises((TargetTimeout, TargetLost)):
        converse(GREETING + READY + b'{"event": "X"}\n' * 1000, hold=True, timeout=0.2)


def anything() -> Iterator[st.SearchStrategy[bytes]]:
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
    yield json_values.map(lambda value: json.dumps(value).encode() + b"\n")
    yield st.binary(max_size=200)
    yield st.just(GREETING)
    yield st.just(READY)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.one_of(*anything()), max_size=5).map(b"".join))
def test_any_bytes_end_in_an_error_of_ours(words: bytes) -> None:
    with pytest.raises(TargetError):
        converse(words)


def test_the_version_is_read_from_the_greeting() -> None:
    assert version_text(json.loads(GREETING)) == "7.2.22 (Debian)"
    assert version_text({"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}}}) == "10.0.2"
