"""A SUBJECT at its entry, with the machine still in hand: what the tracer starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput
from pvhdbg.frontends import subject as subjects
from pvhdbg.frontends.verbs import Request
from pvhdbg.kernel_image import KernelImage, open_kernel
from pvhdbg.targets.target import Target
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState


class Names:
    """Names for linear addresses, at both of their views; none where the kernel has no symbol, or is not at hand."""

    def __init__(self, image: KernelImage | None) -> None:
        self._image = image
        self._symbols = None if image is None else image.symbols()
        self._known: dict[int, str | None] = {}
        loads = () if image is None else image.elf.loads
        self._loads = tuple((load.p_paddr, load.p_paddr + load.p_memsz) for load in loads)

    def __call__(self, address: int) -> str | None:
        """ "symbol" or "symbol+0x10"."""
        if address not in self._known:
            if len(self._known) > 1 << 16:
                self._known.clear()
            self._known[address] = self._name(address)
        return self._known[address]

    def _name(self, address: int) -> str | None:
        if self._symbols is None:
            return None
        physical = self._symbols.to_physical(address)
        if not any(start <= physical < end for start, end in self._loads):
            return None
        near = self._symbols.nearest(physical)
        return None if near is None else f"{near[0]}+{near[1]:#x}" if near[1] else near[0]

    def kept(self, addresses: Iterable[int]) -> Callable[[int], str | None]:
        """The names of some addresses, which stay at hand when the kernel is closed."""
        return {address: self(address) for address in addresses}.get

    def addresses(self, symbol: str) -> list[int]:
        """A symbol at both of its addresses, virtual and physical. Raises BadInput for one that is not there."""
        if self._symbols is None:
            raise BadInput(f"there is no kernel to look {symbol} up in", "add --kernel ELF, or give the address as a number")
        return sorted({self._symbols.virtual_address(symbol), self._symbols.physical_address(symbol)})

    def found(self, symbols: tuple[str, ...]) -> dict[int, str]:
        """Those of the symbols that the kernel has, by address."""
        by_address: dict[int, str] = {}
        for symbol in symbols if self._symbols else ():
            try:
                by_address.update(dict.fromkeys(self.addresses(symbol), symbol))
            except BadInput:
                continue
        return by_address

    def code(self, address: int) -> bytes:
        """The file's bytes at a linear address, at either view: up to the longest instruction."""
        for load in () if self._image is None else self._image.elf.loads:
            for base in (load.p_vaddr, load.p_paddr):
                if base <= address < base + load.p_filesz:
                    at = load.p_offset + address - base
                    return bytes(self._image.data[at : at + 15]) if self._image is not None else b""
        return b""


@dataclass
class Machine:
    """A machine at its entry. `qemu` is None for one that somebody else started."""

    target: Target
    boot: BootState
    names: Names
    image: KernelImage | None = None
    qemu: QemuProcess | None = None
    warnings: list[str] = field(default_factory=list)


@contextmanager
def at_entry(request: Request) -> Iterator[Machine]:
    """Bring the subject, a kernel file or a gdbstub, to its entry; leave it as the request says. Raises PvhdbgError."""
    path = str(request.subject)
    kind = subjects.kind_of(path)
    if kind not in ("kernel", "stub"):
        raise BadInput(f"{path} is a {kind}, which does not run", "give the kernel, or a gdbstub")
    if option_names(tuple(request.extra or ())) & {"d", "D"}:
        raise BadInput("QEMU's options -d and -D cannot be passed on", "leave them out: the tracer switches QEMU's log by itself")
    with ExitStack() as stack:
        opened = stack.enter_context(subjects.open_subject(request))
        image, kernel = opened.image, opened.boot.snapshot.kernel
        if image is None and kernel is not None and kernel.path is not None and kernel.source == "ELF file":
            image = stack.enter_context(open_kernel(kernel.path))  # it was compared with the guest's memory
        yield Machine(opened.target, opened.boot, Names(image), image, opened.qemu, opened.warnings)
