"""The traps of QEMU's stub and of pygdbmi that were measured, each with a test that would catch it."""

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pygdbmi import gdbmiparser

from pvhdbg import guests
from pvhdbg.errors import MemoryUnreadable, ProtocolError, TargetError, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.rsp.packets import Packet, PacketReader, frame
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.gdb_mi import GdbTarget
from pvhdbg.targets.mi import MachineInterface
from pvhdbg.targets.mi_answers import contents_of
from pvhdbg.targets.mi_channel import MiChannel, quoted
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave
from pvhdbg.targets.wire import Wire
from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support.cli_runner import scratch
from tests.support.relay import Relay

HELLO = guests.path("hello")


@pytest.mark.boot
def test_only_harmless_packets_are_ever_sent() -> None:
    """Hazards 1, 2, 3, 6, 7: no G, no bs/bc, one `?` before any breakpoint, Z1 only, m within what the stub takes."""
    sent = bytearray()

    def when(data: bytes) -> bytes:
        sent.extend(data)
        return data

    with scratch() as folder, start(QemuOptions(kernel=HELLO, memory="64M")) as qemu, Relay(qemu.gdb_socket, folder, when) as relay:
        target = RemoteTarget.connect(StubAddress(path=relay.address))
        run_until(target, {0x100000}, 20)
        target.read_memory(0x100000, 0x5000)
        target.write_register("rsi", 1)
        target.step()
        target.monitor("info registers")
        target.close(Leave.STOPPED)
    packets = [event.data for event in PacketReader().feed(bytes(sent).replace(b"\x03", b"")) if isinstance(event, Packet)]
    assert not [packet for packet in packets if packet.startswith((b"G", b"bs", b"bc", b"Z0", b"X"))]
    assert packets.count(b"?") == 1
    assert packets.index(b"?") < next(index for index, packet in enumerate(packets) if packet.startswith(b"Z1"))
    assert len([p for p in packets if p.startswith(b"Z1")]) == len([p for p in packets if p.startswith(b"z1")])
    sizes = [int(packet.split(b",")[1], 16) for packet in packets if packet.startswith(b"m")]
    assert max(sizes) <= 0x800
    assert sum(sizes) >= 0x5000


@pytest.mark.parametrize("contents", ["", "90", "00ff" * 2048])
def test_memory_that_gdb_shows_is_what_pygdbmi_reads(contents: str) -> None:
    line = f'1^done,memory=[{{begin="0x0000000000001000",offset="0x0",end="0x2000",contents="{contents}"}}]\n'
    reader, writer = os.pipe()
    with open(os.devnull, "wb") as sink, open(reader, "rb") as source, open(writer, "wb", closefd=True) as gdb:
        gdb.write(line.encode())
        gdb.flush()
        ours, theirs = MiChannel(sink, source).command("-x"), gdbmiparser.parse_response(line.strip())
    assert (ours["token"], ours["message"]) == (theirs["token"], theirs["message"])
    size = len(contents) // 2
    assert contents_of(ours["payload"], 0x1000, size) == contents_of(theirs["payload"], 0x1000, size) == bytes.fromhex(contents)
    with pytest.raises(MemoryUnreadable):
        contents_of(ours["payload"], 0x1000, size + 1)


@pytest.mark.boot
def test_a_damaged_answer_among_several_is_not_asked_for_again() -> None:
    """QEMU would send its last packet again, whichever was damaged: memory of another address."""
    damages = False

    def back(data: bytes) -> bytes:
        at = data.find(b"#") if damages else -1
        return data if at < 0 else data[:at] + b"#zz" + data[at + 3 :]

    with (
        scratch() as folder,
        start(QemuOptions(kernel=HELLO, memory="64M")) as qemu,
        Relay(qemu.gdb_socket, folder, lambda data: data, back) as relay,
    ):
        target = RemoteTarget.connect(StubAddress(path=relay.address), timeout=2)
        whole = target.read_memory(0x100000, 0x4000)
        with pytest.raises(MemoryUnreadable) as gap:
            target.read_memory((64 << 20) - 0x1000, 0x3000)
        assert gap.value.address == 64 << 20
        assert target.read_memory(0x100000, 0x4000) == whole
        damages = True
        with pytest.raises(ProtocolError):
            target.read_memory(0x100000, 0x4000)
        damages = False
        target.close(Leave.KILLED)


@pytest.mark.boot
def test_resuming_on_a_breakpoint_makes_progress() -> None:
    """Hazard 4: `c` on top of a breakpoint stops again at once."""
    with start(QemuOptions(kernel=HELLO, memory="64M")) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        run_until(target, {0x100000}, 20)
        target.set_breakpoint(0x100000)
        target.resume()
        with pytest.raises(TargetTimeout):  # the guest prints its line, and halts
            target.wait(0.5)
        target.interrupt()
        assert target.read_registers()["eip"] != 0x100000
        target.close(Leave.KILLED)


@pytest.mark.boot
def test_a_second_client_is_told_that_another_holds_the_stub() -> None:
    """Hazard 6: it connects, and is never answered."""
    with start(QemuOptions(kernel=HELLO, memory="64M")) as qemu:
        first = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        began = time.monotonic()
        for connect in (RemoteTarget.connect, GdbTarget):
            with pytest.raises(TargetError) as error:
                connect(StubAddress(path=qemu.gdb_socket), timeout=1.0)
            assert "another debugger" in error.value.todo
        assert time.monotonic() - began < 15
        assert first.read_registers()["rip"] == 0xFFF0
        first.close(Leave.KILLED)


@pytest.mark.boot
def test_connecting_stops_and_leaving_may_resume() -> None:
    """Hazard 8."""
    with start(QemuOptions(kernel=HELLO, memory="64M")) as qemu:
        RemoteTarget.connect(StubAddress(path=qemu.gdb_socket)).close(Leave.RUNNING)
        deadline = time.monotonic() + 20
        while not qemu.serial_tail():
            assert time.monotonic() < deadline
            time.sleep(0.01)


# --- peers that are not stubs, or bad ones ------------------------------------------------------------------------


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[StubAddress]:
    """A server for one client, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            try:
                client, _ = listener.accept()
                with client:
                    serve(client)
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield StubAddress("127.0.0.1", listener.getsockname()[1])
        thread.join(5)


def answering(*replies: bytes, dies: bool = False) -> Callable[[socket.socket], None]:
    """A stub that answers each packet with the next of `replies` (raw bytes), then says nothing more, or dies."""

    def serve(client: socket.socket) -> None:
        reader, waiting = PacketReader(), list(replies)
        while (waiting or not dies) and (data := client.recv(4096)):
            for event in reader.feed(data):
                if isinstance(event, Packet) and waiting:
                    client.sendall(b"+" + waiting.pop(0))

    return serve


def test_an_http_server_is_named() -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    try:
        with pytest.raises(ProtocolError, match="HTTP") as error:
            RemoteTarget.connect(StubAddress("127.0.0.1", server.server_port), timeout=2.0)
        assert error.value.todo
    finally:
        server.server_close()


def test_a_server_that_speaks_first_is_named() -> None:
    with peer(lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as address, pytest.raises(ProtocolError, match="SSH"):
        RemoteTarget.connect(address, timeout=2.0)


def test_a_stub_that_never_answers_is_a_time_out() -> None:
    def silent(client: socket.socket) -> None:
        while client.recv(4096):
            pass

    began = time.monotonic()
    with peer(silent) as address, pytest.raises(TargetTimeout):
        RemoteTarget.connect(address, timeout=0.5)
    assert time.monotonic() - began < 3


def test_a_stub_that_dies_in_the_middle_is_lost() -> None:
    with peer(answering(frame(b"PacketSize=1000"), dies=True)) as address, pytest.raises(TargetLost):
        RemoteTarget.connect(address, timeout=2.0)


def test_an_unasked_stop_reply_does_not_answer_the_next_command() -> None:
    """Hazard 5: QEMU up to 8.0 sends one whenever the machine stops."""
    registers = b"0" * 1216
    stub = answering(
        frame(b"PacketSize=1000"), frame(b"T05thread:p01.01;"), frame(b"OK"), frame(b"sstepbits;sstep;PhyMemMode"), frame(b""),
        frame(b"T02thread:p01.01;") + frame(registers), frame(b"T05thread:p01.01;") + frame(b"E14"),
    )  # fmt: skip
    with peer(stub) as address:
        target = RemoteTarget.connect(address, timeout=2.0)
        assert not target.capabilities.monitor  # empty reply to qRcmd
        with pytest.raises(TargetError, match="E14"):
            target.read_memory(0x1000, 4)
        target.close(Leave.STOPPED)


def test_a_lost_packet_is_asked_for_again() -> None:
    with peer(answering(b"$OK#00", frame(b"ignored"))) as address:
        wire = Wire(address, 2.0, lambda _: None)
        wire.send(b"qSupported")
        with pytest.raises((TargetTimeout, TargetLost)):
            wire.receive(time.monotonic() + 0.5)  # the broken one was refused with `-`
        wire.close()


def test_an_acknowledgement_may_go_with_the_request_that_was_promised_and_is_never_left_out() -> None:
    got = bytearray()

    def strict(client: socket.socket) -> None:
        """Answers no packet before the answer to the one before was acknowledged, by itself or in front of it."""
        answers = [b"T05thread:p01.01;", b"00" * 8, b"E14", b"O41", b"OK"]
        for number in range(5):
            while got.count(b"#") <= min(number, 3) or got.count(b"+") < number:
                data = client.recv(4096)
                if not data:
                    return
                got.extend(data)
            client.sendall(b"+" + frame(answers[number]))
        while data := client.recv(4096):
            got.extend(data)

    with peer(strict) as address:
        wire = Wire(address, 2.0, lambda _: None)
        assert wire.request(b"s", 2.0, more=True) == b"T05thread:p01.01;"
        assert wire.request(b"g", 2.0) == b"00" * 8
        assert wire.request(b"m1,1", 2.0, more=True) == b"E14"
        wire.send(b"qRcmd,")
        assert [wire.receive(time.monotonic() + 2) for _ in range(2)] == [b"O41", b"OK"]
        wire.close()
    assert bytes(got) == b"$s#73+$g#67+" + frame(b"m1,1") + b"+" + frame(b"qRcmd,") + b"++"


def test_a_read_that_waits_for_longer_than_a_slice_ends_in_time() -> None:
    with peer(answering()) as address:
        wire = Wire(address, 5.0, lambda _: None)
        wire.send(b"g")
        began = time.monotonic()
        with pytest.raises(TargetTimeout):
            wire.receive(began + 1.3)
        assert 1.3 <= time.monotonic() - began < 2.5
        wire.close()


def test_a_closed_port_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TargetLost) as error:
        RemoteTarget.connect(StubAddress("127.0.0.1", port), timeout=2.0)
    assert "QEMU" in error.value.todo


# --- GDB's machine interface --------------------------------------------------------------------------------------


@pytest.fixture
def gdb() -> Iterator[MachineInterface]:
    interface = MachineInterface()
    yield interface
    interface.close()


def shell(script: str) -> str:
    return f"-interpreter-exec console {quoted('python ' + script)}"


def test_a_command_costs_what_gdb_needs_and_no_fixed_wait(gdb: MachineInterface) -> None:
    """M1: pygdbmi's own write waits 0.2 s after the last output."""
    began = time.monotonic()
    for _ in range(50):
        gdb.command("-gdb-show version")
    assert time.monotonic() - began < 5  # 10 s at 0.2 s each


def test_a_slow_command_does_not_shift_the_replies(gdb: MachineInterface) -> None:
    """M2: the next write gets the previous ^done."""
    with pytest.raises(TargetTimeout):
        gdb.command(shell("import time; time.sleep(1); print('slow')"), timeout=0.2)
    reply = gdb.command(shell("print('mine')"), timeout=10)
    assert "".join(reply["console"]).strip().endswith("mine")


def test_a_dead_gdb_is_told_at_once_and_costs_no_cpu(gdb: MachineInterface) -> None:
    """M3: pygdbmi spins at 100 % until its time-out."""
    os.killpg(gdb.pid, signal.SIGKILL)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.monotonic()
    with pytest.raises(TargetLost, match="-9"):
        gdb.command("-gdb-show version", timeout=10)
    assert time.monotonic() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 1


def test_much_on_stderr_does_not_wedge_gdb(gdb: MachineInterface) -> None:
    """M4: a pipe that is never read fills up at 64 kB."""
    gdb.command(shell("import os; [os.write(2, b'noise' * 8000) for _ in range(10)]"), timeout=10)
    assert gdb.command("-gdb-show version")["message"] == "done"


def test_a_program_that_is_no_gdb(tmp_path: Path) -> None:
    with pytest.raises(VmmFailed, match="not installed"):
        MachineInterface("no-such-gdb")
    old = tmp_path / "gdb"
    old.write_text(
        "#!/bin/sh\nread -r line; printf '%s\\n' '~\"GNU gdb (GDB) 11.2\\n\"' \"${line%%-*}^done\" '(gdb) '; cat >/dev/null\n"
    )
    old.chmod(0o755)
    with pytest.raises(VmmFailed, match=r"11\.2"):
        MachineInterface(str(old))


@pytest.mark.parametrize("text", ['a"b', "a\\b", "x\ny", '"; shell touch pwned-by-a-quote; "'])
def test_what_is_quoted_stays_one_argument(gdb: MachineInterface, text: str) -> None:
    reply = gdb.command(f"-interpreter-exec console {quoted('echo ' + text.replace(chr(10), ' ').replace(chr(92), chr(92) * 2))}")
    assert reply["message"] == "done"
    assert not os.path.exists("pwned-by-a-quote")
