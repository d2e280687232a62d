"""A machine that only one thread may use, leased to another thread: how an engine traces a guest that the surrounding GDB runs.

GDB's Python runs in GDB's own thread, and `continue` holds that thread until the guest stops. So the work (an engine that reads
a log meanwhile) runs in a thread of its own, and this one, `serve`, does the work's calls to the machine, one call after
the other. To the work it is a `Target` like any other: `resume` begins a run, `wait` waits for its end, `interrupt` ends it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from itertools import count
from typing import Protocol, TypeVar

from pvhdbg.decode.followed_control import Control
from pvhdbg.errors import TargetError, TargetLost, TargetTimeout
from pvhdbg.leaving import blocked
from pvhdbg.model import Registers
from pvhdbg.rsp.registers import RegisterLayout
from pvhdbg.targets.target import Leave, Steppable, Stop, StopKind, Stoppable, Target, steppable, unwinding

T = TypeVar("T")
_NUMBERS = count(1)  # a machine may be leased again: runs must not be confused
_TURN = 0.05  # seconds between two checks whether the work is done
_STOPS = 10.0  # seconds in which an interrupted machine must stop
_OURS = frozenset((signal.SIGINT,))
# What a debugger handles in its own thread (GDB manual, "Threading in GDB"): no thread of ours may take it away.
_THEIRS = frozenset((signal.SIGINT, signal.SIGCHLD, signal.SIGALRM, signal.SIGWINCH))


class Runs(Target, Protocol):
    """A target that runs in the thread that asks for it."""

    def run(self, number: int) -> Stop:
        """Run the guest to its next stop. Runs are numbered, so that an interrupt cannot end the wrong one."""

    def stop_soon(self, number: int) -> None:
        """Make the run of that number return, also one that has not begun. Can be called from any thread."""


class FromThread:
    """The `Target` that the work gets. Its methods may be called by the work's thread only.

    `will_stop` says whether the machine is going to stop by itself as if somebody had interrupted it, as the flight recorder lets it;
    no longer so when it has.
    """

    def __init__(self, inner: Runs, will_stop: Callable[[], bool] = lambda: False) -> None:
        self.inner, self._will_stop = inner, will_stop
        self._awaits_stop = False  # it was so when the latest run began
        self.name, self.via, self.capabilities = inner.name, inner.via, inner.capabilities
        self._jobs: deque[Callable[[], None]] = deque()
        self._ready = threading.Event()
        self._over = False
        self._run: Future[Stop] | None = None
        self._number = 0  # of the latest run
        self._asked = False  # the work requested the next stop
        self._pressed = False  # Ctrl-C, and no run has ended by it yet
        self._on_ctrl_c: Callable[[], None] | None = None

    # --- the thread that serves -----------------------------------------------------------------------------------

    def serve(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread, and what it asks of the machine in this one, until it is done; returns or raises what it does.

        Ctrl-C ends what `interruptible` names, else the run; it never cuts an answer of the machine's in two. A thread of its own waits
        for it: a debugger that gets it while it stops the guest for the work would take both for one stop.
        """
        done: Future[T] = Future()

        def worker() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        with blocked(_OURS):
            with blocked(_THEIRS):
                thread = threading.Thread(target=worker, name="pvhdbg", daemon=True)
                ear = threading.Thread(target=self._hear_ctrl_c, name="pvhdbg-ctrl-c", daemon=True)
                thread.start()
                ear.start()
            while thread.is_alive() or self._jobs:
                self._ready.wait(_TURN)
                self._ready.clear()
                while self._jobs:
                    self._jobs.popleft()()
            self._over = True
            thread.join()
        return done.result()

    def _hear_ctrl_c(self) -> None:
        """In its own thread: Ctrl-C ends the work and its current run, or the next one if none has begun."""
        while not self._over:
            if signal.sigtimedwait(_OURS, _TURN) is None:
                continue
            if self._over:
                os.kill(os.getpid(), signal.SIGINT)  # it is the debugger's again
                return
            self._pressed = True
            self._ctrl_c()
            if self._run is not None:
                self.inner.stop_soon(self._number)

    def _ctrl_c(self) -> None:
        if self._on_ctrl_c is not None:
            self._on_ctrl_c()

    # --- the work's thread ----------------------------------------------------------------------------------------

    def call(self, what: Callable[[], T]) -> T:
        """Do something else in the thread that serves; returns or raises what it does."""
        return self._ask(what).result()

    def _ask(self, what: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()

        def job() -> None:
            try:
                try:
                    answer.set_result(what())
                except KeyboardInterrupt:  # a debugger that noted Ctrl-C before it began: once more, for the work's end
                    if self._on_ctrl_c is None:
                        raise
                    self._on_ctrl_c()
                    answer.set_result(what())
            except BaseException as error:
                answer.set_exception(error)

        if self._over:
            raise TargetLost("the trace no longer controls the machine", "repeat the command")
        self._jobs.append(job)
        self._ready.set()
        return answer

    @contextmanager
    def interruptible(self, engine: Stoppable) -> Iterator[None]:
        """Inside this context Ctrl-C ends `engine`, which keeps its events so far."""
        self._on_ctrl_c = engine.stop
        if self._pressed:
            engine.stop()
        try:
            yield
        finally:
            self._on_ctrl_c = None

    def read_registers(self) -> Registers:
        return self._ask(self.inner.read_registers).result()

    def write_register(self, name: str, value: int) -> None:
        self._ask(lambda: self.inner.write_register(name, value)).result()

    def read_memory(self, address: int, size: int) -> bytes:
        return self._ask(lambda: self.inner.read_memory(address, size)).result()

    def write_memory(self, address: int, data: bytes) -> None:
        self._ask(lambda: self.inner.write_memory(address, data)).result()

    def set_breakpoint(self, address: int) -> None:
        self._ask(lambda: self.inner.set_breakpoint(address)).result()

    def clear_breakpoint(self, address: int) -> None:
        self._ask(lambda: self.inner.clear_breakpoint(address)).result()

    def step(self) -> Stop:
        stop = self._ask(self.inner.step).result()
        if stop.kind is StopKind.INTERRUPT:
            self._ctrl_c()
        return stop

    def monitor(self, command: str) -> str:
        return self._ask(lambda: self.inner.monitor(command)).result()

    def peer_command(self) -> tuple[str, ...]:
        return self._ask(self.inner.peer_command).result()

    def alive(self) -> bool:
        return self._ask(self.inner.alive).result()

    @property
    def cpu(self) -> int | None:
        return self._ask(lambda: self.inner.cpu).result()

    def frames(self, most: int) -> tuple[int, ...]:
        found = unwinding(self.inner)
        return () if found is None else self._ask(lambda: found.frames(most)).result()

    # --- with `capabilities.packets` ------------------------------------------------------------------------------

    def _packets(self) -> Steppable:
        found = steppable(self.inner)
        if found is None:
            raise TargetError(f"{self.name} does not hand out packets", "trace with --engine log")
        return found

    def follow(self, cpu: int | None) -> None:
        self._ask(lambda: self._packets().follow(cpu)).result()

    @property
    def layout(self) -> RegisterLayout:
        return self._ask(lambda: self._packets().layout).result()

    def packet(self) -> bytes:
        return self._ask(lambda: self._packets().packet()).result()

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]:
        return self._ask(lambda: self._packets().step_packet(pc, ahead)).result()

    def follow_control(self) -> None:
        self._ask(lambda: self._packets().follow_control()).result()

    def followed(self) -> Control | None:
        return self._ask(lambda: self._packets().followed()).result()

    def read_linear(self, address: int, size: int) -> bytes:
        return self._ask(lambda: self._packets().read_linear(address, size)).result()

    # --- running --------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The run begins; `wait` and `interrupt` end it."""
        if self._run is not None:
            raise TargetError("the machine is running", "interrupt it first")
        self._asked, self._awaits_stop = False, self._will_stop()
        number = self._number = next(_NUMBERS)
        self._run = self._ask(lambda: self._ran(number))
        if self._pressed:
            self.inner.stop_soon(number)

    def _ran(self, number: int) -> Stop:
        stop = self.inner.run(number)
        expected = self._asked or (self._awaits_stop and not self._will_stop())
        if stop.kind is StopKind.INTERRUPT and (self._pressed or not expected):
            self._pressed = False
            if self._on_ctrl_c is None:
                raise KeyboardInterrupt
            self._on_ctrl_c()
        return stop

    def wait(self, timeout: float) -> Stop:
        if self._run is None:
            raise TargetError("the machine is not running", "resume it first")
        try:
            stop = self._run.result(timeout)
        except FutureTimeout:
            raise TargetTimeout(f"the guest did not stop within {timeout:g} s", "give it more time") from None
        except BaseException:
            self._run = None
            raise
        self._run = None
        return stop

    def interrupt(self) -> Stop:
        if self._run is None:
            return Stop(StopKind.INTERRUPT, 2, "already stopped")
        self._asked = True
        self.inner.stop_soon(self._number)
        return self.wait(_STOPS)

    def close(self, leave: Leave) -> bool:
        """Does nothing: the lessor closes the target."""
        return True
