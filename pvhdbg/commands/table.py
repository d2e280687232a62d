"""Each command once: its name, help, example, arguments, and the function that does it.

CLI, REPL, GDB and the Python API use these tables: `COMMANDS` is for the command line, `LIVE` for a session; most commands of a
session are in both. Importing this module loads the declarations only: `action` names the module of a command's function, which is
imported when the command is used.
"""

from __future__ import annotations

from pvhdbg.commands.declare import Command
from pvhdbg.commands.tables import handoff, parts, recorded, stress, sweep, tool, traces

COMMANDS: tuple[Command, ...] = (
    *handoff.HANDOFF,
    *recorded.RECORDED,
    *traces.TRACES,
    *stress.STRESS,
    *sweep.SWEEP,
    *parts.PARTS,
    *tool.TOOL,
)
LIVE: tuple[Command, ...] = (
    *(command for command in COMMANDS if command.live),
    *traces.IN_SESSION,
    *recorded.IN_SESSION,
    *tool.IN_SESSION,
)
