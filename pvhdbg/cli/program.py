"""The command line: parses the commands with argparse, prints their answers, and turns errors into two lines and an exit code.

0 conforms · 1 violated · 2 usage or unreadable input · 3 not observed up to the entry · 4 undecided under --strict ·
70 internal error.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would be read from files
import gc
import sys

TYPE_CHECKING = False  # see pvhdbg/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TextIO

    from pvhdbg.commands.declare import Command
    from pvhdbg.commands.output import Output
    from pvhdbg.decode.text import SafeText
    from pvhdbg.errors import PvhdbgError

INTERNAL_ERROR = 70
INTERRUPTED = 130
NO_MEMORY = 2  # as for any input that cannot be read

_OBJECTS = 50_000  # objects made before a garbage collection: Python's default of 700 would cause forty useless ones at start-up


def program() -> int:
    """`main` as a process of its own, which exits without the interpreter's clean-up."""
    gc.set_threshold(_OBJECTS)
    try:
        return main()
    except KeyboardInterrupt:  # before `main` could catch it
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # a second one would interrupt the imports for the message
        return _fail(_safe("interrupted"), _safe(""), INTERRUPTED)
    finally:
        gc.freeze()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Never raises, except SystemExit from argparse."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"]):  # answered before anything is imported
        from pvhdbg.version import VERSION

        return _put(f"pvhdbg {VERSION}\n")
    from pvhdbg import leaving
    from pvhdbg.errors import PvhdbgError

    leaving.catch()
    coded = _coded(words)
    try:
        return coded(_run(words))
    except PvhdbgError as error:
        return _fail(_safe(error.what), _safe(error.todo), coded(error.exit_code, error))
    except KeyboardInterrupt:
        return _fail(_safe("interrupted"), _safe(""), INTERRUPTED)
    except BrokenPipeError:  # argparse printed help to a closed pipe (Python 3.10)
        return 0
    except Exception as error:
        if (gap := _unobserved(error)) is not None:
            return coded(_fail(_safe(gap.what), _safe(gap.todo), gap.exit_code))
        if _is_about_memory(error):
            todo = "allow more (ulimit -v; a container's limit), or give a smaller file"
            return coded(_fail(_safe("not enough memory"), _safe(todo), NO_MEMORY))
        return coded(_internal(error))
    finally:
        _flush()
        if argv is None:  # the process ends: an exception raised by a signal would not be caught
            leaving.ended()


def _coded(words: list[str]) -> Callable[..., int]:
    """The function that maps an exit code and its error to the final exit code. Errors of parsing count too."""
    if "--bisect" in words[: words.index("--") if "--" in words else len(words)]:
        from pvhdbg.cli.bisecting import exit_code

        return exit_code
    return lambda code, error=None: code


def _flush() -> None:
    """Flush what is still buffered while an error can be handled: at exit Python would print a traceback, or exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            try:
                _drop(stream)
            except (OSError, ValueError):  # it is closed: nothing is buffered
                pass


def _run(words: list[str]) -> int:
    from pvhdbg.cli.standard_input import spooled
    from pvhdbg.commands.line import parse

    command, values = parse(words)
    with spooled(command.name, values) as read:
        return _done(command, read)


def _done(command: Command, values: Mapping[str, Any]) -> int:
    from contextlib import ExitStack

    from pvhdbg.commands.declare import Context, options_of
    from pvhdbg.commands.formats import APPENDED
    from pvhdbg.commands.options import OutputOptions
    from pvhdbg.commands.output import open_output, style_for
    from pvhdbg.commands.progress import ProgressLine
    from pvhdbg.errors import PvhdbgError

    if command.converses:
        from pvhdbg.repl.start import converse, converses

        if converses(command, values):
            return converse(command, values, _stderr())
    asked = options_of(OutputOptions, values)
    to_file = asked.output if "json" in command.formats and not command.writes else None
    with ExitStack() as stack:  # all files are opened before the work begins, and appear together
        outputs = [(asked.format, stack.enter_context(open_output(to_file)))]
        for one, path in asked.report:
            outputs.append((one, stack.enter_context(open_output(path, one in APPENDED))))
        try:
            with ProgressLine(_stderr(), asked.detail, command.working) as progress:
                answer = command(values, Context(progress))
        except Exception as error:
            failed = error if isinstance(error, PvhdbgError) else _unobserved(error)
            if failed is None:
                raise
            _write_failure(outputs, _told(command, values, failed))
        else:
            for one, output in outputs:
                text = answer.render(one, style_for(asked, output.stream))
                if one == "text":
                    output.show(text, paging=not values.get("batch"))
                else:
                    output.write(text)
            return answer.exit_code
    raise failed


def _write_failure(outputs: list[tuple[str, Output]], told: Callable[[str], str | None]) -> None:
    """Write what went wrong into the files whose format can hold it. On a terminal the error itself is enough."""
    for one, output in outputs:
        if output.stream is sys.stdout and one == "text":
            continue
        failure = told(one)
        if failure is None:
            output.discard()
        else:
            output.write(failure)


def _told(command: Command, values: Mapping[str, Any], error: PvhdbgError) -> Callable[[str], str | None]:
    from pvhdbg.commands.failures import of_error

    return of_error(command, values, error)


def _unobserved(error: Exception) -> PvhdbgError | None:
    """The error for a register or memory that a machine or a recording does not show; None for any other exception."""
    from pvhdbg.errors import TargetError
    from pvhdbg.model import Unavailable

    if not isinstance(error, Unavailable):
        return None
    return TargetError(error.reason, "see what is available with: regs, summary")


def _is_about_memory(error: Exception) -> bool:
    """Whether the system refused memory: for an object, a process, a thread's stack, or a shared library."""
    import errno

    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error)
    return (isinstance(error, RuntimeError) and "start new thread" in said) or (
        isinstance(error, ImportError) and ("failed to map segment" in said or "annot allocate memory" in said)
    )


def _put(text: str) -> int:
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
    return 0


def _drop(stream: TextIO) -> None:
    from pvhdbg.commands.output import drop

    drop(stream)


def _stderr() -> TextIO:
    if sys.stderr is None:  # closed by the parent process
        import os

        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it takes the place of standard error
    return sys.stderr


def _safe(text: str) -> SafeText:
    from pvhdbg.decode.text import safe  # a command that succeeds does without

    return safe(text)


def _fail(what: SafeText, todo: SafeText, code: int) -> int:
    try:
        text, stream = f"pvhdbg: {what}\n" + (f"  next: {todo}\n" if todo else ""), _stderr()
        if stream.isatty():
            from pvhdbg.commands.output import for_terminal

            text = for_terminal(text, stream)
        stream.write(text)
    except OSError:  # only the exit code can report it
        pass
    return code


def _internal(error: Exception) -> int:
    import os
    import traceback

    if os.environ.get("PVHDBG_TRACEBACK"):
        traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return _fail(
        _safe(f"internal error: {type(error).__name__}: {error} ({where})"),
        _safe("report it, with the output of the same command under PVHDBG_TRACEBACK=1"),
        INTERNAL_ERROR,
    )


if __name__ == "__main__":
    sys.exit(program())
