"""Kernels x VMMs x machines x options."""

from __future__ import annotations

from typing import Any

from pvhdbg.commands.declare import Argument, Command, argument

_ACTIONS = "pvhdbg.sweep.commands"
_DB = argument("--db", metavar="FILE", default="sweep.db", help="the file of sweeps (default: sweep.db)", completes="file")
_RUN = argument(
    "--run", metavar="RUN", default="last", help="the number of a run; -1 is the last, -2 the one before (default: last)"
)


def _axis(*names: str, key: str, help: str, completes: str = "", **options: Any) -> Argument:
    """An option that gives a value of the axis `key`, and may be given several times."""
    return argument(*names, dest=key, action="append", default=[], help=help, completes=completes, **options)


SWEEP: tuple[Command, ...] = (
    Command(
        "sweep",
        "boot and judge every combination of kernels, QEMUs, machines and options, and keep the results",
        "pvhdbg sweep --kernel vmlinux --machine pc --machine q35 --memory 256M --memory 3G",
        f"{_ACTIONS}:sweep",
        (
            argument(
                "plan", metavar="PLAN", nargs="?", help="a TOML file with the axes; options replace its axes", completes="file"
            ),
            _axis(
                "--kernel",
                key="kernels",
                metavar="FILE",
                help="a kernel; each of these options may be given several times",
                completes="file",
            ),
            _axis("--qemu", key="qemus", metavar="BINARY[@VERSION]", help="a QEMU, which must be of that version"),
            _axis("--machine", "-M", key="machines", metavar="TYPE", help="a machine type"),
            _axis("--firmware", key="firmwares", metavar="NAME", help="a firmware image, as -bios takes it"),
            _axis("--memory", "-m", key="memory", metavar="SIZE", help="a size of the guest's memory"),
            _axis("--cpus", key="cpus", type=int, metavar="N", help="a number of CPUs"),
            _axis("--cpu", key="cpu_models", metavar="MODEL", help="a CPU model"),
            _axis("--accel", key="accelerators", choices=("tcg", "kvm", "auto"), help="an accelerator"),
            _axis("--initrd", key="initrds", metavar="FILE", help='a ramdisk; "" is none', completes="file"),
            _axis("--append", key="command_lines", metavar="STRING", help="a command line of the kernel"),
            _axis("--spec", key="revisions", choices=("draft-a", "v0", "v1"), help="a revision to judge by"),
            _axis("--until", key="goals", metavar="GOAL", help="what the guest has to reach after its entry"),
            _axis("--expect", key="expectations", metavar="FILE", help="a file of expectations", completes="file"),
            _axis(
                "--mutate", key="mutations", metavar="ID[+ID…]", help='mutations of pvhdbg stress; "" is none, all is each alone'
            ),
            argument(
                "-o",
                "--output",
                dest="output",
                metavar="FILE",
                default="sweep.db",
                help="the file of sweeps, which may hold several (default: sweep.db)",
                completes="file",
            ),
            argument("--jobs", "-j", type=int, metavar="N", help="processes at a time (default: one for each CPU)"),
            argument("--dask", metavar="ADDRESS", help="boot on the workers of this Dask scheduler, as tcp://host:8786"),
            argument("--resume", action="store_true", help="go on with the last run, which was interrupted"),
            argument(
                "--dry-run", action="store_true", help="say how many cells there are and how long they take, and boot nothing"
            ),
        ),
    ),
    Command(
        "sweep report",
        "show a run as a matrix; in HTML each cell opens its report",
        "pvhdbg sweep report --format html --output sweep.html",
        f"{_ACTIONS}:report",
        (
            _DB,
            _RUN,
            argument("--rows", metavar="AXIS,…", help="the axes of the rows (default: all that vary but those of the columns)"),
            argument("--columns", metavar="AXIS,…", help="the axes of the columns (default: machines, or the last that varies)"),
        ),
        formats=("text", "json", "html"),
    ),
    Command(
        "sweep diff",
        "show which cells changed between two runs, and by which rule; exit code 1 if any did",
        "pvhdbg sweep diff -2 -1",
        f"{_ACTIONS}:diff",
        (
            argument("a", metavar="RUN", help="the number of a run; -1 is the last, -2 the one before"),
            argument("b", metavar="RUN", help="the number of another one"),
            _DB,
        ),
    ),
    Command(
        "sweep query",
        "ask a file of sweeps in SQL; nothing can be changed by it",
        'pvhdbg sweep query "select machine, outcome, count(*) from cells group by 1, 2"',
        f"{_ACTIONS}:query",
        (
            argument("sql", metavar="SQL", help="one SELECT; the views cells and verdicts have a row for each of them"),
            _DB,
            argument("--most", type=int, default=1000, metavar="N", help="how many rows are shown (default: 1000)"),
        ),
    ),
    Command(
        "sweep export",
        "write a run as JSON Lines, or as JUnit XML with a case for each cell",
        "pvhdbg sweep export --as junit -o sweep.xml",
        f"{_ACTIONS}:export",
        (
            _DB,
            _RUN,
            argument("--as", dest="format_name", choices=("jsonl", "junit"), default="jsonl", help="the form (default: jsonl)"),
            argument("-o", "--output", metavar="FILE", help="the file to write (default: standard output)", completes="file"),
        ),
        formats=("text",),
    ),
)
