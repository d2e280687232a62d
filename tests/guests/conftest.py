"""A sample guest in a real QEMU, at its entry or at any symbol of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pvhdbg import guests
from pvhdbg.decode.boot_state import BootState
from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.capture import capture
from pvhdbg.machine.entry_search import Plan
from pvhdbg.model import Registers
from pvhdbg.targets.run import run_until
from pvhdbg.vmm.qemu import QemuOptions
from tests.support.cli_runner import eventually
from tests.support.debugged import EXIT_DEVICE, debugged


class Guest:
    """One boot of a sample guest, under a debugger of our own.

    With `ends`, QEMU ends when the guest exits or dies; else a dead machine can be looked at, and there is no exit device.
    """

    def __init__(self, name: str, stack: ExitStack, ends: bool = True, **options: str) -> None:
        self.path = guests.path(name)
        image = stack.enter_context(open_kernel(str(self.path)))
        self.kernel = image.kernel()
        self._symbols = image.symbols()
        wanted = QemuOptions(self.path, extra=EXIT_DEVICE if ends else (), **options)  # type: ignore[arg-type]
        self.qemu, self.target = stack.enter_context(debugged(wanted))

    def address(self, symbol: str) -> int:
        """Where a symbol lies in memory."""
        return self._symbols.physical_address(symbol)

    def run_to(self, *symbols: str) -> Registers:
        """The registers at the first of some symbols."""
        run_until(self.target, [self.address(symbol) for symbol in symbols], 20)
        return self.target.read_registers()

    def capture(self, entry: str | None = None, spec: str = "v1", here: bool = False) -> BootState:
        """The decoded machine at its entry, at the symbol `entry`, or where it stands."""
        at = None if entry is None else self.address(entry)
        return capture(self.target, Plan(spec, at, entry, self.kernel, here))

    def word(self, symbol: str) -> int:
        """The 32-bit word at a symbol."""
        return int.from_bytes(self.target.read_memory(self.address(symbol), 4), "little")

    def finish(self) -> tuple[int | None, list[str]]:
        """Let it run to its end: QEMU's exit status, and what the guest printed."""
        self.target.resume()
        return self.qemu.wait(10), list(self.qemu.serial_tail(100))

    def said(self, line: str) -> None:
        """Wait until the guest has printed `line`, which stops nothing."""
        eventually(
            lambda: line in self.qemu.serial_tail(100), lambda: f"{line!r} is not in {self.qemu.serial_tail(100)}", within=10
        )


@pytest.fixture
def boot(qemu: str) -> Iterator[Callable[..., Guest]]:
    """Boots sample guests, by name and QemuOptions; ends them after the test."""
    with ExitStack() as stack:
        yield lambda name, **options: Guest(name, stack, **options)
