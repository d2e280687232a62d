"""A PVH domain on a host that runs Xen: `xl create -p`, xen-hvmctx while it is paused, `xl unpause`, and Xen's own console.

What the probe writes to port 0xe9 goes to Xen's console, each line with the domain's number in front of it (hvm_print_line in Xen's
xen/arch/x86/hvm/hvm.c). `xl dmesg` shows that console. `xl console` shows a ring of the PV console driver, which the probe does not have,
and a PVH domain has no serial port. Xen keeps the last 16 KiB of its console by default, so it is read again and again, and lines are
collected. xen-hvmctx shows the registers and the hidden segment state before the first instruction, which the guest cannot see.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from pvhdbg.errors import BadInput
from pvhdbg.model import Vmm
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish

CONTEXT = "/usr/lib/xen-{}/bin/xen-hvmctx"  # where Debian has it
_FRESH = "/sys/hypervisor/version"
# $1 xl, $2 xen-hvmctx, $3 the configuration, $4 the domain's name, $5 where its context goes, $6 where its console goes
_SCRIPT = """
"$1" create -p "$3" || exit
id=$("$1" domid "$4") || exit
[ -z "$2" ] || "$2" "$id" >"$5"
"$1" unpause "$4" || exit
: >"$6"
collect() {
    "$1" dmesg | grep -F "(d$id) " | LC_ALL=C awk '!seen[$0]++' "$2" - >"$2.new"
    cmp -s "$2.new" "$2" || mv -- "$2.new" "$2"
}
while "$1" domid "$4" >/dev/null; do
    collect "$1" "$6"
    sleep 0.2
done
collect "$1" "$6"
"""


def _find(binary: str | None) -> Found:
    path = shutil.which(binary or "xl")
    if path is None:
        if binary:
            return Found(missing=f"{binary} is not a program that can be run", todo="check the path given with --binary")
        return Found(
            missing="xl is not in PATH", todo="boot a host with Xen (Debian: xen-system-amd64), or use --run xen, which needs none"
        )
    version = _running_version()
    if not version and binary is None:
        return Found(
            path, missing="this machine does not run under Xen", todo="boot it with Xen, or use --run xen, which needs none"
        )
    return Found(path, version)


def _running_version() -> str:
    try:
        numbers = [Path(_FRESH, name).read_text(encoding="ascii").strip() for name in ("major", "minor")]
        return ".".join(numbers) + Path(_FRESH, "extra").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _context_program(version: str) -> str:
    minor = ".".join(version.split(".")[:2])
    return shutil.which("xen-hvmctx") or shutil.which(CONTEXT.format(minor)) or ""


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    name = f"pvhdbg-probe-{secrets.token_hex(4)}"
    config, context, console = (os.path.join(folder, one) for one in ("probe.cfg", "context", "console"))
    lines = [
        ("name", name),
        ("type", "pvh"),
        ("kernel", os.path.abspath(wish.kernel)),
        ("on_poweroff", "destroy"),
        ("on_crash", "destroy"),
    ]
    lines += [("ramdisk", os.path.abspath(path)) for path in wish.initrds]
    lines += [("cmdline", wish.append)] if wish.append is not None else []
    text = "".join(f'{key} = "{_plain(value)}"\n' for key, value in lines)
    Path(config).write_text(f"{text}memory = {wish.mib}\nvcpus = 1\n", encoding="utf-8")
    command = ("/bin/sh", "-c", _SCRIPT, "pvhdbg-xl", found.path, _context_program(found.version), config, name, context, console)
    vmm = Vmm("Xen", found.version or None, None, (found.path, "create", "-p", config))
    return Launch(command, vmm, console, undo=(found.path, "destroy", name), context=context)


def _plain(text: str) -> str:
    if any(letter in '"\\' or not letter.isprintable() for letter in text):
        raise BadInput(f"{text!r} cannot be written into a domain's configuration", "use a text without quotes and backslashes")
    return text


XL = ProbedVmm(
    "xl",
    "Xen (xl)",
    _find,
    _prepare,
    silent="a release build of Xen shows a guest's output with guest_loglvl=all on its command line only",
)
