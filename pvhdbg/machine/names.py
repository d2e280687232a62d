"""Names for linear addresses, and addresses for names, as a kernel's file has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pvhdbg.decode.frame_rule import FrameRule
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput
from pvhdbg.kernel.call_frames import CallFrames
from pvhdbg.kernel.debug_info import QUICK, DebugInfo
from pvhdbg.kernel.image import KernelImage
from pvhdbg.spec.linux_symbols import PANICS
from pvhdbg.tracing.goal import Goal
from pvhdbg.tracing.mode_words import MODES


class Names:
    """Names for linear addresses, by physical and by virtual address; none where the kernel has no symbol, or is not open."""

    def __init__(self, image: KernelImage | None) -> None:
        self._image = image
        self._symbols = None if image is None else image.symbols()
        self._frames = None if image is None else CallFrames(image.data)
        self._debug: DebugInfo | None = None
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
        """The names of some addresses, which remain available when the kernel is closed."""
        return {address: self(address) for address in addresses}.get

    def addresses(self, symbol: str) -> list[int]:
        """A symbol at both of its addresses, virtual and physical. Raises BadInput for an unknown one."""
        if self._symbols is None:
            raise BadInput(f"no kernel is known to look up {symbol} in", "add --kernel ELF, or give the address as a number")
        return sorted({self._symbols.virtual_address(symbol), self._symbols.physical_address(symbol)})

    def found(self, symbols: tuple[str, ...]) -> dict[int, str]:
        """Those of the symbols that the kernel has, by address."""
        if self._symbols is None:
            return {}
        known = self._symbols.values(symbols)
        return {address: name for name, value in known.items() for address in (value, self._symbols.to_physical(value))}

    def frame_rule(self, address: int) -> FrameRule | None:
        """The row of the kernel's call frame tables for a linear address, virtual or physical; None where there is none."""
        if self._image is None or self._frames is None:
            return None
        for load in self._image.elf.loads:
            for base in (load.p_vaddr, load.p_paddr):
                found = self._frames.at(address - base + load.p_vaddr) if base <= address < base + load.p_memsz else None
                if found is not None:
                    return found
        return None

    def line(self, address: int) -> SafeText | None:
        """ "file:line" of a linear address, virtual or physical; None where that is not known, or debug info is too large to be read here."""
        if self._image is None or len(self._image.data) > QUICK:
            return None
        for load in self._image.elf.loads:
            for base in (load.p_vaddr, load.p_paddr):
                if base <= address < base + load.p_memsz:
                    try:
                        self._debug = self._debug or DebugInfo(self._image.data)
                        found = self._debug.line(address - base + load.p_vaddr)
                    except BadInput:  # damaged, or this Python has no pyelftools
                        return None
                    if found is not None:
                        return safe(found)
        return None

    def linked(self, symbol: str) -> int | None:
        """A symbol's link-time address; None for one that the kernel does not have."""
        return None if self._symbols is None else self._symbols.values((symbol,)).get(symbol)

    def data_at(self, address: int) -> str | None:
        """The name of the data object that holds a linear address; None where none does, or where types are not known."""
        return None if self._symbols is None else self._symbols.object_at(self._symbols.to_physical(address))

    def file(self, physical: int, size: int) -> bytes:
        """What the kernel's file has at a physical address, up to `size` bytes; b"" where it has nothing."""
        for load in () if self._image is None else self._image.elf.loads:
            if load.p_paddr <= physical < load.p_paddr + load.p_filesz:
                at = load.p_offset + physical - load.p_paddr
                return (
                    bytes(self._image.data[at : min(at + size, load.p_offset + load.p_filesz)]) if self._image is not None else b""
                )
        return b""

    @property
    def is_linux(self) -> bool:
        """Whether the kernel says that it is Linux, by its notes."""
        return self._image is not None and any(note.owner == b"Linux\0" for note in self._image.elf.notes)

    def code(self, address: int) -> bytes:
        """The file's bytes at a linear address, physical or virtual: up to the longest instruction."""
        for load in () if self._image is None else self._image.elf.loads:
            for base in (load.p_vaddr, load.p_paddr):
                if base <= address < base + load.p_filesz:
                    at = load.p_offset + address - base
                    return bytes(self._image.data[at : at + 15]) if self._image is not None else b""
        return b""


def goal_of(text: str, names: Names, option: str = "--until") -> Goal:
    """A mode's name, 0xADDRESS, or a symbol. Raises BadInput."""
    return Goal(modes=MODES[text]) if text in MODES else Goal(addresses_of(text, names, option))


def addresses_of(text: str, names: Names, option: str = "--until") -> tuple[int, ...]:
    """0xADDRESS, or a symbol at both of its addresses. Raises BadInput."""
    try:
        address = int(text, 16) if text.lower().startswith("0x") else None
    except ValueError:
        address = None
    if address is None:
        return tuple(names.addresses(text))
    if not 0 <= address < 1 << 64:
        raise BadInput(f"{option} {text} is not an address", "give a number below 2^64")
    return (address,)


def panics(names: Names) -> list[int]:
    """The link-time addresses of Linux' panic(), which does not return; none for another kernel."""
    return [address for name in PANICS if (address := names.linked(name)) is not None] if names.is_linux else []
