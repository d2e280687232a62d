"""Xen's own domain builder (libxenguest, which needs no Xen to parse a kernel) and its simulator: the same entry or refusal."""

import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.decode.kernel_file import KernelFile, survey
from pvhdbg.errors import BadInput
from pvhdbg.loaders.loading import Loading
from pvhdbg.loaders.xen_libelf import XEN
from pvhdbg.spec.elf import Section32, Section64
from tests.loaders import test_cases
from tests.loaders.generated import cases, mutated
from tests.support import real_kernel
from tests.support.cli_runner import scratch
from tests.support.elf_writer import ElfSpec, NoteSpec, SymbolSpec

_SOURCE = Path(__file__).parent / "xen_builder.c"
_ENTERED = "not supported by xen kernel"  # what it says in the end where it would go on, since there is no Xen


@pytest.fixture(scope="module")
def builder(packages: None) -> Iterator[list[str]]:
    """The command of Xen's builder, compiled here against the distribution's libraries."""
    root: Path = real_kernel.or_skip(real_kernel.xen_toolstack)
    (library,) = {path.parent for path in root.rglob("libxenguest.so")}
    with scratch() as folder:
        command = ["gcc", "-o", str(folder / "xen_builder"), str(_SOURCE), f"-I{root / 'usr/include'}", f"-L{library}"]
        libraries = ["-lxenguest", "-lxenctrl", "-lxentoollog", f"-Wl,-rpath-link,{library}"]
        subprocess.run([*command, *libraries], check=True, capture_output=True)
        yield ["env", f"LD_LIBRARY_PATH={library}", str(folder / "xen_builder")]


def files() -> list[bytes]:
    """Generated kernels, those of the table, and what becomes of some when bytes of their headers change."""
    dice = random.Random(2015)
    whole = [case.data for case in cases(300, seed=4)] + [case.data for case in test_cases.CASES]
    sections = [
        ElfSpec(section_notes=(NoteSpec(),), notes=notes, bits=bits, machine=machine, symbols=(SymbolSpec("a", 0x100000),)).encode()
        for notes in ((), ((NoteSpec(),),))
        for bits, machine in ((64, 62), (32, 3))
    ]
    narrow = [ElfSpec(paddr=0x80, notes=((NoteSpec(desc=(0x80).to_bytes(size, "little")),),)).encode() for size in range(1, 13)]
    owners = [ElfSpec(notes=((NoteSpec(owner=owner),),)).encode() for owner in (b"Xen", b"Xen\0\0", b"Xen\0Xen\0", b"XEN\0", b"")]
    return whole + narrow + owners + [mutated(dice, dice.choice(whole[:60] + sections * 5)) for _ in range(600)]


def seen(log: str) -> str | int | None:
    """What the builder came to: the entry, None where the HVM loader takes the file (it does not say where), or its last words."""
    said = re.findall(r"panic: \S+ (.*?)(?:: Invalid kernel|: Internal error)$", log, re.MULTILINE)
    last = str(said[-1]) if said else "it said nothing"
    if _ENTERED not in last:
        return last
    entry = re.search(r"virt_entry +=? ?(0x[0-9a-f]+)", log)
    return None if entry is None else int(entry[1], 16)


def expected(loading: Loading) -> str | int | None:
    if loading.protocol is None:
        return loading.refusal
    return None if any("for firmware" in quirk.text for quirk in loading.quirks) else loading.entry


def test_xen_does_what_is_simulated(builder: list[str], folder: Path) -> None:
    kernels: list[KernelFile] = []
    for data in files():
        try:
            kernel = survey(data)
        except BadInput:
            continue
        if kernel.elf.header.e_shentsize not in (0, Section64.sizeof() if kernel.elf.bits == 64 else Section32.sizeof()):
            continue  # libelf steps by it through section headers of the usual size: such notes are not simulated
        kernels.append(kernel)
        (folder / f"{len(kernels) - 1}.elf").write_bytes(data)
    names = "".join(f"{folder / f'{index}.elf'}{os.linesep}" for index in range(len(kernels)))
    done = subprocess.run(builder, input=names, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    logs = re.split(r"^FILE .*$", done.stdout, flags=re.MULTILINE)[1:]
    assert len(logs) == len(kernels) >= 600
    answers = [XEN.load(kernel) for kernel in kernels]
    wrong = [
        f"{index}: {seen(log)}, simulated: {answer}"
        for index, (log, answer) in enumerate(zip(logs, answers, strict=True))
        if seen(log) != expected(answer)
    ]
    assert wrong == []
    assert len({answer.refusal for answer in answers}) >= 3
    assert sum(answer.entry is not None for answer in answers) >= 200
