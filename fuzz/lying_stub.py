"""A gdbstub on a real unix socket that answers as QEMU does, and lies where it is told to: also in its monitor."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.targets.monitor import MTREE, REGISTERS, ROMS
from pvhdbg.rsp.packets import Packet, PacketReader, frame
from pvhdbg.rsp.registers import QEMU_64
from pvhdbg.rules.examples import at_entry

_STOPPED = b"T05thread:p01.01;"
_HONEST = 192  # bytes of the script from 0 to here are honest
LISTINGS = {
    "info registers": REGISTERS, "info mtree -f": MTREE, "info roms": ROMS, "info version": "7.2.22\r\n", "info kvm": "kvm support: disabled\r\n",
    "info status": "VM status: paused\r\n",
}  # fmt: skip
_SNAPSHOT = at_entry(rip=0x100000).snapshot()


def _g() -> bytes:
    packet = bytearray(QEMU_64.length)
    for slot in QEMU_64.slots:
        value = _SNAPSHOT.registers.get(slot.name) or 0
        packet[slot.offset : slot.offset + slot.size] = (value & (1 << 8 * slot.size) - 1).to_bytes(slot.size, "little")
    return packet.hex().encode()


_G = _g()


class LyingStub:
    """Serves one client after the other at `address`. `script` says of each answer what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "stub")
        self.script = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """No further client."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                with client:
                    client.settimeout(5)
                    self._talk(client)
            except OSError:
                pass  # the client has gone

    def _talk(self, client: socket.socket) -> None:
        reader, at = PacketReader(), 0
        while data := client.recv(1 << 16):
            if b"\x03" in data:
                client.sendall(frame(b"T02thread:p01.01;"))
                data = data.replace(b"\x03", b"")
            for event in reader.feed(data):
                if isinstance(event, Packet):
                    lie = self.script[at] if at < len(self.script) else 0
                    at += 1
                    if lie == 255:
                        return  # it hangs up
                    client.sendall(b"+" + self._lied(lie, _answers(event.data), at))

    def _lied(self, lie: int, answers: list[bytes], at: int) -> bytes:
        honest = b"".join(map(frame, answers))
        more = self.script[at : at + 16] or b"\0"
        if lie < _HONEST:
            return honest
        kinds = (
            frame(b"E01"),
            frame(b""),
            frame(b"OK"),
            frame(answers[-1][: len(answers[-1]) // 2]),
            frame(bytes(byte ^ more[index % len(more)] & 1 for index, byte in enumerate(answers[-1]))),
            frame(b"x" * len(answers[-1])),
            frame(_STOPPED) + honest,
            b"$" + answers[-1] + b"#00" + honest,
            more + honest,
            frame(b"f" * 4000),
            frame(b"O" + b"\x1b[2J\n::error::x".hex().encode()) + honest,
            frame(b"W00"),
            frame(more),
            honest + honest,
            frame(b"xx" * QEMU_64.length),
        )
        return kinds[lie % len(kinds)]


def _answers(request: bytes) -> list[bytes]:
    """What an honest stub says."""
    if request.startswith(b"qSupported"):
        return [b"PacketSize=1000;multiprocess+"]
    if request.startswith(b"qRcmd,"):
        try:
            command = bytes.fromhex(request[6:].decode()).decode()
        except ValueError:
            return [b"E01"]
        text = LISTINGS.get(command, "")
        return [*(b"O" + text[start : start + 1000].encode().hex().encode() for start in range(0, len(text), 1000)), b"OK"]
    if request == b"g":
        return [_G]
    if request.startswith(b"m"):
        address, _, size = request[1:].partition(b",")
        try:
            return [_memory(int(address, 16), min(int(size, 16), 2048)).hex().encode()]
        except ValueError:
            return [b"E01"]
    if request in (b"?", b"s", b"c") or request.startswith((b"vCont;", b"s", b"c")):
        return [_STOPPED]
    fixed = {
        b"qfThreadInfo": b"mp01.01",
        b"qsThreadInfo": b"l",
        b"qC": b"QCp01.01",
        b"vCont?": b"vCont;c;C;s;S",
        b"qAttached": b"1",
    }
    if request in fixed:
        return [fixed[request]]
    return [b""] if request.startswith((b"q", b"v")) else [b"OK"]


def _memory(address: int, size: int) -> bytes:
    data = bytearray(size)
    for piece in _SNAPSHOT.memory.pieces:
        low, high = max(piece.address, address), min(piece.end, address + size)
        if low < high:
            data[low - address : high - address] = piece.data[low - piece.address : high - piece.address]
    return bytes(data)


@contextmanager
def lying_stub() -> Iterator[LyingStub]:
    """One, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as folder:
        stub = LyingStub(Path(folder))
        try:
            yield stub
        finally:
            stub.close()
