"""Starting the installed QEMU on a kernel file, and what it did: words, death, fw_cfg, and where the guest was entered."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pvhdbg.decode.fw_cfg import NUMBERS
from pvhdbg.loaders.loading import BootParameters

_BYTE = re.compile(r"portb\[0x0511\] = 0x([0-9a-f]{2})")
_ROM = re.compile(r"(multiboot|linuxboot|pvh)(?:_dma)?\.bin")
TIME = 20


@dataclass(frozen=True)
class Entered:
    """What the code at an entry said: its number, eax, and the word at [ebx]."""

    spot: int
    eax: int
    word: int


@dataclass(frozen=True)
class Observed:
    """What QEMU did."""

    status: int
    words: str
    items: dict[str, int]
    option_rom: str | None
    entered: Entered | None


def start(kernel: Path, boot: BootParameters, run: bool, time: float = TIME, program: str = "qemu-system-x86_64") -> Observed:
    """Start QEMU stopped, read fw_cfg through its monitor, and let it run if `run`, else end it.

    Raises TimeoutExpired after `time` seconds, with QEMU ended.
    """
    machine = f"{boot.machine},auto-kernel-cmdline=off" if boot.machine == "microvm" else str(boot.machine)
    said = kernel.with_suffix(".out")
    command = [
        program,
        "-accel",
        "tcg",
        "-machine",
        machine,
        "-m",
        str((boot.memory or 0) >> 20),
        "-nodefaults",
        "-display",
        "none",
    ]
    command += [
        "-no-reboot",
        "-no-user-config",
        "-S",
        "-monitor",
        "stdio",
        "-kernel",
        str(kernel),
        "-append",
        boot.command_line.decode(),
    ]
    if boot.initrd_size:
        initrd = kernel.with_suffix(".initrd")
        with open(initrd, "wb") as file:
            file.truncate(boot.initrd_size)
        command += ["-initrd", str(initrd)]
    command += ["-chardev", f"file,id=said,path={said}", "-device", "isa-debugcon,iobase=0xe9,chardev=said"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    asked = ["info roms"]
    for key in NUMBERS.values():
        asked += [f"o /h 0x510 {key:#x}"] + ["i /b 0x511"] * 4
    asked.append("c" if run else "q")
    done = subprocess.run(
        command, input="\n".join(asked) + "\n", capture_output=True, text=True, errors="replace", timeout=time, check=False
    )
    values = [int(value, 16) for value in _BYTE.findall(done.stdout)]
    items = (
        {name: int.from_bytes(bytes(values[4 * index : 4 * index + 4]), "little") for index, name in enumerate(NUMBERS)}
        if values
        else {}
    )
    rom = _ROM.search(done.stdout)
    return Observed(done.returncode, done.stderr, items, rom[1] if rom else None, _entered(said))


def _entered(said: Path) -> Entered | None:
    data = said.read_bytes() if os.path.exists(said) else b""
    if len(data) < 9:
        return None
    return Entered(data[0], int.from_bytes(data[1:5], "little"), int.from_bytes(data[5:9], "little"))
