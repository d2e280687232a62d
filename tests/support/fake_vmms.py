"""Programs that behave as the VMMs that cannot be had here: they print a recorded log, die, hang or refuse.

Each is a shell script with that VMM's name; it answers --version, writes its arguments down, and then does what its `deed` says.
"""

from pathlib import Path

LOGS = Path(__file__).parents[1] / "data" / "probe-logs"

DEEDS = {
    "prints": 'cat "$LOG"; exit 1',  # as Firecracker does after a guest that ended: a complete log, and an exit status
    "halts": 'cat "$LOG"; while :; do sleep 1; done',  # the probe halts for good, and the VMM stays
    "half": 'head -n 30 "$LOG"; exit 1',
    "dies": 'echo "kvm: the machine cannot be created" >&2; exit 3',
    "killed": 'echo "booting"; kill -SEGV $$',
    "hangs": 'echo "booting"; while :; do sleep 1; done',
    "refuses": 'echo "error: unexpected argument found" >&2; exit 2',
}

# The guest's output goes where that VMM's own arguments send it.
_TO = {
    "firecracker": "",
    "alioth": "",
    "cloud-hypervisor": 'for word; do case "$word" in file=*) exec >"${word#file=}" ;; esac; done',
    "crosvm": 'for word; do case "$word" in type=file,path=*) to=${word#type=file,path=}; exec >"${to%%,*}" ;; esac; done',
}
VERSIONS = {"firecracker": "Firecracker v1.12.1", "alioth": "alioth 0.12.0", "cloud-hypervisor": "cloud-hypervisor v48.0.0",
            "crosvm": "crosvm 0.1.0-build1"}  # fmt: skip
NAMES = {"firecracker": "firecracker-1.12.1", "alioth": "alioth-0.12"}  # of the log


def make(folder: Path, name: str, deed: str, version: str | None = None) -> Path:
    """The program, in that folder; what it was called with is in the file `called` there."""
    log = LOGS / f"{NAMES.get(name, 'firecracker-1.12.1')}.log"
    script = folder / name
    script.write_text(
        f"#!/bin/sh\nLOG={log}\n"
        f'[ "$1" = --version ] && {{ echo "{version or VERSIONS[name]}"; exit 0; }}\n'
        f'for word; do printf "%s\\n" "$word"; done >{folder}/called\n{_TO[name]}\n{DEEDS[deed]}\n'
    )
    script.chmod(0o755)
    return script


def make_xl(folder: Path, deed: str = "prints") -> Path:
    """An `xl` whose domain is the file `domain` in that folder, and a xen-hvmctx beside it.

    Where it `wraps`, each `xl dmesg` shows 60 lines only, and the next time the following ones; where it `crashes`, the domain is
    gone after the first one.
    """
    log = LOGS / "xen-4.17-domu.log"
    script = folder / "xl"
    output = f"sed '/(d1) /d; s/(d2) /(d7) /' {log}"  # the second domain that this Xen had
    dmesg = {
        "prints": output,
        "wraps": f"{output} | tail -n +$(wc -l <{folder}/shown) | head -n 60; seq 50 >>{folder}/shown",
        "crashes": f"[ -e {folder}/domain ] && {{ {output} | head -n 60; rm {folder}/domain; }} || {output}",
    }.get(deed, "echo '(XEN) no guest output'")
    (folder / "shown").write_text("1\n")
    create = "exit 1" if deed == "dies" else f'cp "$3" {folder}/domain'
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/called\ncase $1 in\n'
        f"create) {create} ;;\ndomid) [ -e {folder}/domain ] && echo 7 ;;\nunpause) ;;\n"
        f"dmesg) {dmesg} ;;\ndestroy) rm {folder}/domain ;;\nesac\n"
    )
    script.chmod(0o755)
    return script


KRUN = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int krun_create_ctx(void) { return 4; }
int krun_set_vm_config(unsigned ctx, unsigned char cpus, unsigned mib) { return ctx == 4 && cpus == 1 && mib == 256 ? 0 : -22; }
int krun_set_kernel(unsigned ctx, const char *kernel, unsigned format, const char *initrd, const char *line)
{ return ctx == 4 && format == 1 && !access(kernel, R_OK) && !initrd && !strcmp(line, "console=ttyS0") ? 0 : -22; }
int krun_disable_implicit_console(unsigned ctx) { return ctx == 4 ? 0 : -22; }
static int out = -1;
int krun_add_serial_console_default(unsigned ctx, int in, int to) { out = to; return ctx == 4 && in == -1 ? 0 : -22; }
int krun_start_enter(unsigned ctx)
{
    char piece[4096];
    long size;
    int log = open(LOG, O_RDONLY);
    if (ctx != 4) return -22;
    while ((size = read(log, piece, sizeof piece)) > 0)
        if (write(out, piece, size) != size) _exit(9);
    _exit(0);
}
"""
