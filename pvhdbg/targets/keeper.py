"""The keeper: a small shell process that outlives pvhdbg, and puts a machine back that pvhdbg was attached to when it was killed.

It reads a pipe whose only writer is pvhdbg. `done` means that pvhdbg has put everything back itself. End of file without it means
that pvhdbg is gone: then the keeper becomes `machine/mending.py`, a client of the same stub, which QEMU listens for again as soon as
pvhdbg's own connection has closed. The other lines say what there is to put back, each before it is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from types import MappingProxyType, TracebackType

from pvhdbg.targets.address import StubAddress

_SHELL = "/bin/sh"
# The traps: a Ctrl-C or a hang-up of the terminal is pvhdbg's to answer. A GDB of pvhdbg's holds the stub until it is killed.
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
# Monitor commands after which there is something to put back, and what the keeper is told.
_CHANGES: Mapping[str, str] = MappingProxyType({"singlestep on": "single on", "one-insn-per-tb on": "single on"})
_UNDONE: Mapping[str, str] = MappingProxyType({"singlestep off": "single off", "one-insn-per-tb off": "single off"})
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Keeper:
    """A context manager around the time for which pvhdbg holds a machine that is somebody else's.

    Where no process can be made, nothing is kept: then a killed pvhdbg leaves the machine as it was at that moment.
    """

    def __init__(self, address: StubAddress) -> None:
        self._writer = -1
        self._pid = 0
        self._found = False
        self._held = False  # by a connection that has not put back what it changed
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
        """A connection is about to be made; how the machine is found, it will tell."""
        self._held = True
        if not self._found:
            self._tell("was unknown")

    def holds(self, running: bool) -> None:
        """A connection was made. How the first one found the machine is how that is left if pvhdbg is killed."""
        if not self._found:
            self._found = True
            self._tell(f"was {'running' if running else 'stopped'}")

    def put_back(self) -> None:
        """The connection has put back what it changed, or the machine is gone, or it never came about."""
        self._held = False

    def gdb(self, pid: int) -> None:
        """A GDB, the leader of its process group, holds the stub."""
        self._tell(f"gdb {pid}")

    def no_gdb(self) -> None:
        """It has ended."""
        self._tell("gdb")

    def before(self, command: str) -> None:
        """A monitor command is about to be given."""
        if command in _CHANGES:
            self._tell(_CHANGES[command])
        elif command.startswith("log") and command != "log none":
            self._tell("log on")

    def after(self, command: str) -> None:
        """It was given. `log none` is not the last of what puts a log back, so that stays to be done again."""
        if command in _UNDONE:
            self._tell(_UNDONE[command])

    def close(self) -> None:
        """End it, or let it do its work: it tries for longer than pvhdbg waits for a machine. Safe to call twice."""
        if not self._held:
            self._tell("done")
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        if self._pid and not self._held:
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # somebody in this process reaps all children
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
            except OSError:  # somebody killed it: then nothing depends on the line
                pass


def _words(address: StubAddress) -> tuple[str, str]:
    """An address as two words; the other way is `address_of`."""
    if address.path is not None:
        return "unix", os.path.abspath(address.path)
    return str(address.host or "localhost"), str(address.port)


def address_of(where: str, which: str) -> StubAddress:
    """The address that two words of a keeper stand for."""
    return StubAddress(path=which) if where == "unix" else StubAddress(where, int(which))
