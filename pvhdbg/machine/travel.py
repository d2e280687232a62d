"""Time travel in a live session: how a machine that was stopped elsewhere in the boot takes the place of the current one.

Each front end that starts QEMU provides `Session.traveller`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.machine.options import SubjectOptions
    from pvhdbg.targets.remote import RemoteTarget
    from pvhdbg.tracing.recording import Recording
    from pvhdbg.vmm.qemu import QemuProcess


class Arrival(NamedTuple):
    """A machine under the deterministic clock that stands still, and what holds it.

    `number` is that of its next instruction in the boot. `ended` says how the guest ended, if it did.
    """

    stack: ExitStack
    target: RemoteTarget
    qemu: QemuProcess
    recording: Recording
    number: int | None
    ended: str | None = None


class Traveller(Protocol):
    """The front end's side of time travel."""

    @property
    def about(self) -> SubjectOptions:
        """What is booted, and how."""

    @property
    def image(self) -> KernelImage:
        """The kernel, open until the front end ends. Raises BadInput."""

    @property
    def recording(self) -> Recording | None:
        """That of the current machine; None for one that runs by the host's clock."""

    def breakpoints_now(self) -> tuple[int, ...]:
        """The linear addresses of the user's breakpoints."""

    def follow(self, qemu: QemuProcess | None) -> None:
        """This machine is about to run in the place of the current one: what its guest writes is shown. None: it stands still again."""

    def asked(self) -> bool:
        """Asked while such a machine runs: whether the user wants it to stop."""

    def take(self, arrival: Arrival) -> None:
        """End the current machine, and put the new one in its place. Breakpoints move along."""
