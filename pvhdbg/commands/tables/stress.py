"""A VMM that changes what the ABI leaves open."""

from __future__ import annotations

from pvhdbg.commands.declare import Command, argument
from pvhdbg.commands.formats import JUDGED
from pvhdbg.commands.tables.shared import QEMU

STRESS: tuple[Command, ...] = (
    Command(
        "stress",
        "change what the ABI leaves open, boot, and see which change the guest does not survive",
        "pvhdbg stress vmlinux --until rest_init",
        "pvhdbg.commands.stress:stress",
        (
            argument("subject", metavar="KERNEL", nargs="?", help="an ELF kernel, or a bzImage that holds one"),
            argument("--list", action="store_true", help="list the mutations, with the clause that leaves each open"),
            argument(
                "--until",
                metavar="GOAL",
                help="what the guest has to reach: a symbol, 0xADDRESS, a mode, serial:REGEX or exit:STATUS (default: rest_init)",
            ),
            argument("--for", dest="seconds", type=float, metavar="SECONDS", help="time limit of each boot (default: 30)"),
            argument("--only", action="append", metavar="ID,…", default=[], help="only these mutations"),
            argument("--skip", action="append", metavar="ID,…", default=[], help="all mutations except these"),
            argument(
                "--rounds", type=int, default=0, metavar="N", help="then N random sets of those that it survives (default: 0)"
            ),
            argument("--seed", type=int, default=1, metavar="S", help="the seed of the random sets (default: 1)"),
            argument("--expect", metavar="FILE", help="a file that describes the machine, and allows mutations ([[stress]])"),
            argument("--strict", action="store_true", help="in reports, SHOULD violations of the hand-off fail too"),
            argument("--jobs", "-j", type=int, metavar="N", help="machines that run at the same time (default: one for each CPU)"),
            *QEMU,
        ),
        formats=JUDGED,
        passes_on=True,
    ),
)
