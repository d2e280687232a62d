"""rust-vmm's linux-loader itself and its simulators: the same entry or the same refusal, for generated and mutated files.

`make test-loaders` builds the harness against Debian's librust-linux-loader-dev, and runs this.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvhdbg.decode.kernel_file import KernelFile, survey
from pvhdbg.errors import BadInput
from pvhdbg.loaders.linux_loader import FIRECRACKER, FIRECRACKER_SAYS, LIBKRUN, LIBKRUN_SAYS
from pvhdbg.loaders.loading import BootParameters, EntryProtocol, Loader
from tests.loaders import test_cases
from tests.loaders.generated import cases, mutated
from tests.support.cli_runner import scratch

PROGRAM = os.environ.get("PVHDBG_LINUX_LOADER", "")
MEMORY = BootParameters(memory=64 << 20)
GENERATED, MUTATED = 1000, 3000
FILES = 3000  # that are ELFs still, at least

pytestmark = pytest.mark.skipif(not PROGRAM, reason="linux-loader is not built here: make test-loaders builds it")


@pytest.fixture(scope="module")
def kernels() -> Iterator[list[tuple[Path, KernelFile]]]:
    """The files: generated ones, those of the table, and 3000 of them with changed bytes in their headers."""
    dice = random.Random(2021)
    whole = [case.data for case in cases(GENERATED, seed=7)] + [case.data for case in test_cases.CASES]
    whole += [mutated(dice, dice.choice(whole), 4) for _ in range(MUTATED)]
    with scratch() as folder:
        found = []
        for index, data in enumerate(whole):
            try:
                kernel = survey(data)
            except BadInput:
                continue  # not an ELF any more
            path = folder / f"{index}.elf"
            path.write_bytes(data)
            found.append((path, kernel))
        assert len(found) >= FILES
        yield found


def simulated(loader: Loader, kernel: KernelFile, says: str) -> str | None:
    """The simulator's answer in the harness's words; None where it does not decide."""
    found = loader.load(kernel, MEMORY)
    if found.refusal is not None:
        return f"refused {found.refusal.removeprefix(says)}"
    if found.entry is None:
        return None
    return f"loaded {found.entry:#x}" if found.protocol is EntryProtocol.PVH else f"loaded {found.entry:#x} -"


def agrees(real: str, mine: str) -> bool:
    """For PVH the simulator names the note's entry, and the harness e_entry too."""
    if mine.startswith("refused") or mine.endswith(" -"):
        return real == mine
    return real.split()[::2] == mine.split()


@pytest.mark.parametrize(
    ("loader", "says", "lowest"),
    [(FIRECRACKER, FIRECRACKER_SAYS, ["1048576"]), (LIBKRUN, LIBKRUN_SAYS, [])],
    ids=["with the lowest e_entry of Firecracker", "without one, as libkrun"],
)
def test_linux_loader_does_what_is_simulated(
    kernels: list[tuple[Path, KernelFile]], loader: Loader, says: str, lowest: list[str]
) -> None:
    names = "".join(f"{path}\n" for path, _ in kernels)
    done = subprocess.run([PROGRAM, *lowest], input=names, capture_output=True, text=True, timeout=300, check=True)
    answers = done.stdout.splitlines()
    assert len(answers) == len(kernels)
    pairs = [(path.name, real, simulated(loader, kernel, says)) for (path, kernel), real in zip(kernels, answers, strict=True)]
    assert [one for one in pairs if one[2] is not None and not agrees(one[1], one[2])] == []
    decided = [real for _, real, mine in pairs if mine is not None]
    assert len(decided) > 0.98 * len(kernels)
    assert len({real for real in decided if real.startswith("refused")}) >= 5
    assert sum(real.startswith("loaded") and not real.endswith("-") for real in decided) > 250
