"""A guest in a real QEMU, held at its first instruction by a debugger of our own; both are ended afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.vmm.qemu import QemuOptions, QemuProcess, start

# A guest ends QEMU by writing to it. -action: see vmm/options.py
EXIT_DEVICE = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-action", "shutdown=poweroff")


@contextmanager
def debugged(options: QemuOptions) -> Iterator[tuple[QemuProcess, RemoteTarget]]:
    """The QEMU and the connection to its stub."""
    with start(options) as qemu:
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
        try:
            yield qemu, target
        finally:
            target.close(Leave.KILLED)
