"""The keeper: a small shell process that outlives pvhdbg. It cleans up a machine to which a killed pvhdbg was attached.

It reads a pipe whose only writer is pvhdbg. `done` means that pvhdbg has put everything back itself. End of file without it means
that pvhdbg is gone: then the keeper becomes `machine/mending.py`, a client of the same stub, which accepts it as soon as pvhdbg's
own connection has closed. The other lines announce changes to undo, each before it is made.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from types import MappingProxyType, TracebackType

from pvhdbg.targets.address import StubAddress

_SHELL = "/bin/sh"
# The traps: pvhdbg handles Ctrl-C and a hang-up of the terminal. A GDB started by pvhdbg holds the stub until it is killed.
_KEEP = """
trap '' HUP INT QUIT TERM PIPE
was= single=off log=off gdb=
while read -r word value; do
    case $word in
        was) was=$value ;;
        single) single=$value ;;
        log) log=$value ;;
        gdb) gdb=$value ;;
        done) exit ;;
    esac
done
[ -n "$was" ] || exit
[ -z "$gdb" ] || kill -s KILL -- "-$gdb"
exec "$@" "$was" "$single" "$log"
"""
_MEND = "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1]); from pvhdbg.machine.mending import mend; mend(*sys.argv[2:])"
# Monitor commands that must be undone, and the line for the keeper.
_CHANGES: Mapping[str, str] = MappingProxyType({"singlestep on": "single on", "one-insn-per-tb on": "single on"})
_UNDONE: Mapping[str, str] = MappingProxyType({"singlestep off": "single off", "one-insn-per-tb off": "single off"})
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Keeper:
    """A context manager for the time in which pvhdbg is attached to a machine that it did not start.

    Where no process can be started, there is no keeper: then a killed pvhdbg leaves the machine as it was at that moment.
    """

    def __init__(self, address: StubAddress) -> None:
        self._writer = -1
        self._pid = 0
        self._found = False
        self._held = False  # by a connection that has not undone its changes
        try:
            self._start(address)
        except OSError:
            self.close()

    def _start(self, address: StubAddress) -> None:
        reader, self._writer = os.pipe()
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        words = [_SHELL, "-c", _KEEP, "pvhdbg-keeper", sys.executable, "-I", "-c", _MEND, root, *_words(address)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until its traps are set
        try:
            self._pid = os.posix_spawn(
                _SHELL,
                words,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(reader)

    def connects(self) -> None:
        """A connection is about to be made; the machine's state is not known yet."""
        self._held = True
        if not self._found:
            self._tell("was unknown")

    def holds(self, running: bool) -> None:
        """A connection was made. If pvhdbg is killed, the machine is left in the state that the first connection found."""
        if not self._found:
            self._found = True
            self._tell(f"was {'running' if running else 'stopped'}")

    def put_back(self) -> None:
        """The connection has undone its changes, or the machine is gone, or the connection failed."""
        self._held = False

    def gdb(self, pid: int) -> None:
        """A GDB, the leader of its process group, holds the stub."""
        self._tell(f"gdb {pid}")

    def no_gdb(self) -> None:
        """The GDB has ended."""
        self._tell("gdb")

    def before(self, command: str) -> None:
        """A monitor command is about to be sent."""
        if command in _CHANGES:
            self._tell(_CHANGES[command])
        elif command.startswith("log") and command != "log none":
            self._tell("log on")

    def after(self, command: str) -> None:
        """It was sent. `log none` is not the last step of restoring a log, so that is repeated if pvhdbg is killed."""
        if command in _UNDONE:
            self._tell(_UNDONE[command])

    def close(self) -> None:
        """End the keeper, or let it do its work: it tries for longer than pvhdbg waits for a machine. Safe to call twice."""
        if not self._held:
            self._tell("done")
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        if self._pid and not self._held:
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # other code in this process reaps all children
                pass
        self._pid = 0

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        if self._writer >= 0:
            try:
                os.write(self._writer, f"{line}\n".encode())
            except OSError:  # the keeper was killed: then nothing reads the line
                pass


def _words(address: StubAddress) -> tuple[str, str]:
    """An address as two words; the inverse is `address_of`."""
    if address.path is not None:
        return "unix", os.path.abspath(address.path)
    return str(address.host or "localhost"), str(address.port)


def address_of(where: str, which: str) -> StubAddress:
    """The address for two words of a keeper."""
    return StubAddress(path=which) if where == "unix" else StubAddress(where, int(which))
