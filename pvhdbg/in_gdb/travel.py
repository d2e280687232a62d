"""Time travel in GDB: the machines that pvhdbg starts there, each connected in the place of the one before."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import gdb

from pvhdbg.errors import TargetError, TargetLost
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.travel import Arrival
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.inside_gdb import connection
from pvhdbg.targets.target import Leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.tracing.recording import Recording
    from pvhdbg.vmm.qemu import QemuProcess


class GdbTraveller:
    """See `machine.travel.Traveller`. `arrived` is called with the number of the instruction once GDB is connected."""

    def __init__(self, about: SubjectOptions, image: KernelImage, arrived: Callable[[int | None], None]) -> None:
        self.about, self.image = about, image
        self.recording: Recording | None = None
        self.qemu: QemuProcess | None = None
        self._arrived = arrived
        self._stack = ExitStack()
        self._connection: gdb.TargetConnection | None = None

    @property
    def connected(self) -> bool:
        """Whether GDB is still connected to the machine that was started last."""
        stub = gdb.selected_inferior().connection
        return stub is not None and stub is self._connection

    def breakpoints_now(self) -> tuple[int, ...]:
        found = set[int]()
        for one in gdb.breakpoints():
            if one.is_valid() and one.enabled and one.type in (gdb.BP_BREAKPOINT, gdb.BP_HARDWARE_BREAKPOINT):
                found |= set(_addresses(one))
        return tuple(sorted(found))

    def follow(self, qemu: QemuProcess | None) -> None:
        """GDB shows nothing of the guest's output."""

    def asked(self) -> bool:
        return False  # Ctrl-C is a KeyboardInterrupt here

    def take(self, arrival: Arrival) -> None:
        arrival.target.close(Leave.STOPPED)  # the stub has one client
        if self.connected:
            _quietly("disconnect")
        old, self._stack = self._stack, arrival.stack
        old.close()
        self.recording, self.qemu, self._connection = arrival.recording, arrival.qemu, None
        _quietly(f"target remote {StubAddress(path=arrival.qemu.gdb_socket).for_gdb()}")
        self._connection = connection()
        self._arrived(arrival.number)

    def close(self) -> None:
        """End the machine."""
        if self.connected:
            _quietly("disconnect")
        self._stack.close()
        self.recording = self.qemu = self._connection = None


def _addresses(one: gdb.Breakpoint) -> list[int]:
    """The addresses of a breakpoint; before GDB 13 of one at an address, or at a symbol that GDB knows."""
    locations = getattr(one, "locations", None)
    if locations is not None:
        return [place.address for place in locations if place.enabled and place.address is not None]
    text = one.location or ""
    try:
        if text.startswith("*"):
            return [int(gdb.parse_and_eval(text[1:])) & (1 << 64) - 1]
        return [place.pc for place in gdb.decode_line(text)[1] or ()]
    except gdb.error:
        return []


def _quietly(command: str) -> None:
    try:
        gdb.execute(command, to_string=True)
    except gdb.error as error:
        if "closed" in str(error) or "not connected" in str(error):
            raise TargetLost(f"GDB does not connect to the new machine: {error}", "start it again: pvh start") from error
        raise TargetError(f"GDB does not connect to the new machine: {error}", "start it again: pvh start") from error
