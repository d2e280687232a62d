"""A stub that speaks its protocol and lies: each lie is an error in words and in time, never a fact about the guest."""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pvhdbg.errors import ProtocolError, TargetError, TargetTimeout
from pvhdbg.rsp.packets import Packet, PacketReader, frame
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.targets.wire import Wire
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.step import StepEngine

Lie = Callable[[bytes], "bytes | None"]
STOPPED = b"T05thread:p01.01;"
REGISTERS = b"00" * 608


def honest(request: bytes) -> bytes:
    if request.startswith(b"qSupported"):
        return b"PacketSize=1000;multiprocess+"
    if request in (b"?", b"s"):
        return STOPPED
    if request == b"g":
        return REGISTERS
    if request.startswith(b"m"):
        return b"90" * int(request.partition(b",")[2], 16)
    return b"" if request.startswith(b"q") else b"OK"


@contextmanager
def lying(lie: Lie) -> Iterator[StubAddress]:
    """A stub for one client; `lie` gives its answer, None for the honest one."""

    def run() -> None:
        reader = PacketReader()
        try:
            client, _ = listener.accept()
            with client:
                while data := client.recv(1 << 16):
                    for event in reader.feed(data):
                        if isinstance(event, Packet):
                            told = lie(event.data)
                            client.sendall(b"+" + frame(honest(event.data) if told is None else told))
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield StubAddress("127.0.0.1", listener.getsockname()[1])
        thread.join(5)


def later(request: bytes, answer: bytes, after: int) -> Lie:
    """The honest answers to a request as often as `after` says, and then that one."""
    seen = 0

    def lie(asked: bytes) -> bytes | None:
        nonlocal seen
        seen += asked == request
        return answer if asked == request and seen > after else None

    return lie


@pytest.mark.parametrize(
    "packet", [b"E01", b"", b"00" * 10, b"00" * 344, b"zz" * 608, b"\xff" * 1216, b"00" * 609], ids=range(7),
)  # fmt: skip
@pytest.mark.parametrize("after", [1, 4])
def test_registers_that_are_none_are_no_steps_at_address_0(packet: bytes, after: int) -> None:
    with lying(later(b"g", packet, after)) as address:
        target = RemoteTarget.connect(address, timeout=2)
        engine = StepEngine(target)
        with pytest.raises((TargetError, ProtocolError), match="register"):
            assert sum(len(batch) for batch in engine.batches(Bounds(count=50, seconds=5))) < after
        target.close(Leave.STOPPED)


def test_a_place_that_is_not_available_is_said_to_be_so() -> None:
    with lying(later(b"g", b"xx" * 608, 1)) as address:
        target = RemoteTarget.connect(address, timeout=2)
        with pytest.raises(TargetError, match="does not show"):
            list(StepEngine(target).batches(Bounds(count=50, seconds=5)))
        target.close(Leave.STOPPED)


def test_a_list_of_threads_has_an_end() -> None:
    endless = {b"qfThreadInfo": b"mp01.01", b"qsThreadInfo": b"mp01.01"}
    with lying(endless.get) as address:
        target = RemoteTarget.connect(address, timeout=2)
        with pytest.raises(TargetError, match="has no CPU 3"):
            target.follow(3)
        target.close(Leave.STOPPED)


def test_a_vmm_that_does_not_end_is_not_said_to_have_ended() -> None:
    """QEMU 10 answers `k` by nothing, and lives on."""
    with lying(lambda _: None) as address:
        target = RemoteTarget.connect(address, timeout=0.5)
        assert not target.close(Leave.KILLED)


def test_who_talks_and_never_listens_is_given_up() -> None:
    """Each acknowledgement would wait for room, once for each of thousands of packets that came already."""
    with tempfile.TemporaryDirectory(prefix="pvhdbg-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/stub")
        listener.listen(1)

        def run() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1)
                try:
                    while True:
                        client.sendall(frame(STOPPED) * 4096)
                except OSError:
                    pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(TargetTimeout, match=r"does not (take what is sent|answer)"):
            RemoteTarget.connect(StubAddress(path=f"{folder}/stub"), timeout=2).read_registers()
        assert time.monotonic() - begun < 10
        thread.join(5)


def test_a_flood_does_not_keep_a_look_at_the_peer_busy() -> None:
    """And what was said unasked is not kept for ever."""
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="pvhdbg-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/stub")
        listener.listen()
        wire = Wire(StubAddress(path=f"{folder}/stub"), 2, lambda _: None)
        client, _ = listener.accept()

        def run() -> None:
            try:
                while not over.is_set():
                    client.sendall(frame(STOPPED) * 4096)
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        begun = time.monotonic()
        assert not wire.gone()
        assert time.monotonic() - begun < 5
        assert len(wire.stops) <= 64
        over.set()
        wire.close()
        thread.join(5)
        client.close()
