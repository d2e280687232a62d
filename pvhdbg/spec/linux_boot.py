"""The setup header of a Linux bzImage (Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header")."""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u8, u16, u32, u64

AT = 0x1F0  # file offset of the header, less the byte that aligns it
MAGIC = b"HdrS"
SECTOR = 512
DEFAULT_SETUP_SECTORS = 4  # what 0 in setup_sects means
PAYLOAD_SINCE = 0x0208
XLOADFLAGS_SINCE = 0x020C
XLF_KERNEL_64 = 1


class SetupHeader(Structure):
    """struct setup_header up to init_size; fields newer than `version` have no meaning."""

    before: int = u8("the last byte before the header, at 0x1f0")
    setup_sects: int = u8("512-byte sectors of real-mode code after the first")
    root_flags: int = u16("read-only root")
    syssize: int = u32("protected-mode code in 16-byte units")
    ram_size: int = u16("do not use")
    vid_mode: int = u16("video mode")
    root_dev: int = u16("default root device")
    boot_flag: int = u16("0xAA55")
    jump: int = u16("jump instruction")
    header: bytes = raw(4, "HdrS")
    version: int = u16("boot protocol, 0x020f is 2.15")
    realmode_swtch: int = u32("boot loader hook")
    start_sys_seg: int = u16("obsolete")
    kernel_version: int = u16("offset of the version string, less 0x200")
    type_of_loader: int = u8("boot loader id")
    loadflags: int = u8("1 LOADED_HIGH")
    setup_move_size: int = u16("size to move")
    code32_start: int = u32("boot loader hook, default load address")
    ramdisk_image: int = u32("written by the loader")
    ramdisk_size: int = u32("written by the loader")
    bootsect_kludge: int = u32("obsolete")
    heap_end_ptr: int = u16("end of the setup heap")
    ext_loader_ver: int = u8("extended loader version")
    ext_loader_type: int = u8("extended loader id")
    cmd_line_ptr: int = u32("written by the loader")
    initrd_addr_max: int = u32("highest address of the initrd")
    kernel_alignment: int = u32("alignment of a relocatable kernel")
    relocatable_kernel: int = u8("whether it may be moved")
    min_alignment: int = u8("as a power of two")
    xloadflags: int = u16("1 XLF_KERNEL_64: there is a 64-bit entry at 0x200")
    cmdline_size: int = u32("longest command line")
    hardware_subarch: int = u32("0 PC")
    hardware_subarch_data: int = u64("")
    payload_offset: int = u32("from the beginning of the protected-mode code")
    payload_length: int = u32("bytes of the payload")
    setup_data: int = u64("written by the loader")
    pref_address: int = u64("preferred load address")
    init_size: int = u32("memory needed at run time")
