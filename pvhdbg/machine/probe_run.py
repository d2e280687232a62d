"""A VMM boots the guest `probe`: its log becomes a subject at its entry, as if it had been read from a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pvhdbg.decode import hvm_context
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, BadLog, PvhdbgError, TargetTimeout, VmmFailed
from pvhdbg.machine.capture import decoded
from pvhdbg.machine.probe_log import read_log
from pvhdbg.machine.subject import Observed
from pvhdbg.model import Snapshot, Vmm
from pvhdbg.targets.recorded import RecordedTarget
from pvhdbg.vmm.probing.running import Boot, booted
from pvhdbg.vmm.probing.seam import Found, ProbedVmm, Wish

_CONTEXT_LIMIT = 1 << 20


def observed(
    runner: ProbedVmm, wish: Wish, found: Found, revision: str, seconds: float, save: str | None, progress: Callable[[str], None]
) -> Observed:
    """Boot the probe under that VMM and decode its log, which is also written to the file `save`. Raises PvhdbgError.

    The VMM is named by what was started, and not by what the guest sees of it.
    """
    progress(f"booting the probe under {runner.title} {found.version}".rstrip())
    with booted(runner, wish, found, seconds) as boot:
        if save is not None:
            _save(boot, save)
        try:
            snapshot, warnings = read_log(str(boot.console))
        except BadLog as error:
            raise _without_a_report(runner, boot, seconds) from error
        except BadInput as error:  # no such file
            raise _without_a_report(runner, boot, seconds) from error
        if boot.timed_out:
            warnings.append(safe(f"{runner.title} was ended after {seconds:g} s, before the probe's report was complete (--for)"))
        elif boot.status and not boot.complete:
            warnings.append(
                safe(f"{runner.title} {_ended(boot.status)} before the probe's report was complete: {boot.last_message()}")
            )
        started = boot.launch.vmm
        version = boot.version() or started.version or snapshot.vmm.version
        vmm = Vmm(started.name, version, started.accelerator, started.command)
        snapshot = replace(snapshot, vmm=vmm, sources={**snapshot.sources, "vmm": "the VMM that was started"})
        snapshot, said = _with_context(snapshot, boot)
    target = RecordedTarget(snapshot, f"the probe under {runner.title}", "log")
    return Observed(decoded(target, snapshot, revision), (*warnings, *map(safe, said)))


def _with_context(snapshot: Snapshot, boot: Boot) -> tuple[Snapshot, list[str]]:
    if boot.launch.context is None:
        return snapshot, []
    try:
        with open(boot.launch.context, "rb") as file:
            witness = hvm_context.decode(file.read(_CONTEXT_LIMIT))
    except OSError:
        return snapshot, ["xen-hvmctx is not here: hidden segment state was not observed"]
    except BadLog as error:
        return snapshot, [f"{error.what}: hidden segment state was not observed"]
    return hvm_context.joined(snapshot, witness)


def _save(boot: Boot, path: str) -> None:
    try:
        shutil.copyfile(boot.console, path)
    except FileNotFoundError:
        Path(path).write_bytes(b"")  # the VMM opened no console
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "choose another file for --save") from error


def _without_a_report(runner: ProbedVmm, boot: Boot, seconds: float) -> PvhdbgError:
    """Why there is no line of the probe: the VMM's own last message says most."""
    said = boot.last_message()
    words = f": {said}" if said else " without a message"
    if boot.timed_out:
        todo = "; ".join(part for part in ("allow more time with --for", runner.silent) if part)
        return TargetTimeout(
            f"the probe printed nothing under {runner.title} within {seconds:g} s"
            + (f"; its last message: {said}" if said else ""),
            todo,
        )
    todo = runner.silent or f"run it by hand to see more: {safe(' '.join(boot.launch.command))[:400]}"
    return VmmFailed(f"{runner.title} {_ended(boot.status or 0)} before the probe printed anything{words}", todo)


def _ended(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
