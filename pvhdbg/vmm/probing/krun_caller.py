"""The process that a libkrun machine runs in: LIBRARY KERNEL MIB INITRD COMMAND_LINE. It is executed by its path, without pvhdbg.

krun_start_enter does not return where it succeeds: the process becomes the VMM, and ends with the guest.
"""

from __future__ import annotations

import ctypes
import os
import sys

_ELF = 1  # KRUN_KERNEL_FORMAT_ELF in include/libkrun.h


def main() -> int:
    path, kernel, mib, initrd, line = sys.argv[1:]
    try:
        krun = ctypes.CDLL(path)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    def call(name: str, *words: object) -> int:
        try:
            function = getattr(krun, name)
        except AttributeError:
            raise SystemExit(f"this libkrun has no {name}") from None
        status = int(function(*words))
        if status < 0:
            raise SystemExit(f"{name}: {os.strerror(-status)}")
        return status

    context = ctypes.c_uint32(call("krun_create_ctx"))
    call("krun_set_vm_config", context, ctypes.c_uint8(1), ctypes.c_uint32(int(mib)))
    ramdisk = os.fsencode(initrd) if initrd else None
    call("krun_set_kernel", context, os.fsencode(kernel), ctypes.c_uint32(_ELF), ramdisk, os.fsencode(line or "console=ttyS0"))
    call("krun_disable_implicit_console", context)
    call("krun_add_serial_console_default", context, ctypes.c_int(-1), ctypes.c_int(1))
    return call("krun_start_enter", context)


if __name__ == "__main__":
    sys.exit(main())
