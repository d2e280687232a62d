/* other_protocols: a kernel that is entered by every protocol other than PVH.
 *
 * It has a PVH note and a multiboot 1 header. QEMU searches for the header first and then ignores the note: it enters the
 * guest at `multiboot_entry`, by multiboot 1. All other VMMs use the note, and enter at `pvh_start`.
 *
 *      pvhdbg check other_protocols.elf                                    QEMU's own hand-off by multiboot 1
 *
 * After either entry it plays the loader itself: it makes the state that another protocol specifies and jumps to the symbol
 * `second_entry`. The command line selects the protocol:
 *
 *      pvhdbg check other_protocols.elf --entry second_entry --append as=linux32
 *
 *   as=multiboot1  EAX 0x2BADB002, EBX to a multiboot_info; also without the option
 *   as=multiboot2  EAX 0x36d76289, EBX to multiboot 2's list of tags
 *   as=linux32     ESI to boot_params, and EBX, EBP, EDI zero; selectors 0x10 and 0x18
 *   as=linux64     RSI to boot_params, in long mode, the first 4 GiB mapped onto themselves; selectors 0x10 and 0x18
 *   as=xen-pv      paging on, RSI to a PV start_info by its *virtual* address, where 64-bit kernels are linked
 *
 * Linux's 16-bit entry is not here: any bzImage shows it. Without a debugger at `second_entry`, the guest prints the protocol
 * on COM1 and exits through isa-debug-exit with code 16 (QEMU's status 33); status 35 if `as=` is not known.
 *
 * QEMU loads no ELF64 by multiboot, unless the header itself says where to load (the "a.out kludge"). It then copies the
 * file from `load_start` on in one piece. The guest therefore has no .data, whose offsets in memory and in the file differ.
 */

        .file   "other_protocols.S"

        .include "guest.inc"

        .set    EXIT_ENTERED, 16
        .set    EXIT_UNKNOWN_PROTOCOL, 17

        .set    MULTIBOOT1_HEADER, 0x1badb002
        .set    MULTIBOOT1_LOADED, 0x2badb002
        .set    MULTIBOOT1_ADDRESSES, 1 << 16   /* the header's flag: its address fields are valid */
        .set    MULTIBOOT1_HAS_CMDLINE, 1 << 2  /* the flag of multiboot_info */
        .set    MULTIBOOT1_CMDLINE, 16          /* offset in multiboot_info */
        .set    MULTIBOOT2_LOADED, 0x36d76289
        .set    MULTIBOOT2_TAG_CMDLINE, 1

        .set    PARAMS_HEADER, 0x202            /* boot_params.hdr.header */
        .set    PARAMS_VERSION, 0x206
        .set    PARAMS_LOADER, 0x210
        .set    PARAMS_CMDLINE, 0x228
        .set    HDRS, 0x53726448                /* "HdrS" */
        .set    PROTOCOL_2_15, 0x20f
        .set    LOADER_UNDEFINED, 0xff

        .set    PV_PT_BASE, 88                  /* offsets in the 64-bit PV start_info */
        .set    PV_CMDLINE, 128
        .set    PV_SIZE, 1168
        .set    KERNEL_MAP, 0xffffffff80000000  /* VIRT_BASE of 64-bit Linux: its first GiB is the first GiB of memory */

        PVH_NOTE pvh_start

/* ---- the multiboot header, within the first 8 KiB of the file ---- */

        .text
load_start:
multiboot_header:
        .long   MULTIBOOT1_HEADER
        .long   MULTIBOOT1_ADDRESSES
        .long   -(MULTIBOOT1_HEADER + MULTIBOOT1_ADDRESSES)
        .long   multiboot_header                /* the address of the header itself */
        .long   load_start
        .long   load_end                        /* these two are the linker script's */
        .long   bss_end
        .long   multiboot_entry

/* ---- the entries ---- */

        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        LOAD_COMMAND_LINE
        jmp     hand_over
        .size   pvh_start, . - pvh_start

        .globl  multiboot_entry
        .type   multiboot_entry, @function
multiboot_entry:
        movl    $stack_top, %esp
        testl   $MULTIBOOT1_HAS_CMDLINE, (%ebx)
        movl    MULTIBOOT1_CMDLINE(%ebx), %ebx
        jnz     hand_over
        xorl    %ebx, %ebx
        .size   multiboot_entry, . - multiboot_entry

        .type   hand_over, @function
hand_over:                              /* EBX: the command line */
        cld
        movl    $option, %esi
        movl    $protocols, %edi
        call    choose
        testl   %eax, %eax
        jz      complain
        movl    %eax, %edx
        movl    (%edi), %ecx            /* the name: `second_entry` prints it, and no protocol specifies ECX */
        lgdt    gdt32_pointer
        ljmp    $CODE, $1f
1:      LOAD_DATA_SEGMENTS
        jmp     *%edx

complain:
        movl    $complaint, %esi
        call    print
        movl    $EXIT_UNKNOWN_PROTOCOL, %eax
        jmp     exit
        .size   hand_over, . - hand_over

/* second_entry runs in 32-bit and in 64-bit code: these instructions are the same bytes in both. */
        .globl  second_entry
        .type   second_entry, @function
second_entry:
        movl    $stack_top, %esp
        movl    %ecx, %ebp
        movl    $announcement, %esi
        call    print
        movl    %ebp, %esi
        call    print
        movl    $line_end, %esi
        call    print
        movl    $EXIT_ENTERED, %eax
        jmp     exit
        .size   second_entry, . - second_entry

        CHOOSE_ROUTINE
        PRINT_ROUTINE
        EXIT_ROUTINE
        MAP_4G_ROUTINE

/* ---- the protocols; each keeps ECX ---- */

        .type   as_multiboot1, @function
as_multiboot1:
        movl    $MULTIBOOT1_LOADED, %eax
        movl    $multiboot1_info, %ebx
        jmp     second_entry
        .size   as_multiboot1, . - as_multiboot1

        .type   as_multiboot2, @function
as_multiboot2:
        movl    $MULTIBOOT2_LOADED, %eax
        movl    $multiboot2_info, %ebx
        jmp     second_entry
        .size   as_multiboot2, . - as_multiboot2

        .type   as_linux32, @function
as_linux32:
        call    fill_boot_params
        movl    $boot_params, %esi
        xorl    %ebx, %ebx
        xorl    %ebp, %ebp
        xorl    %edi, %edi
        jmp     second_entry
        .size   as_linux32, . - as_linux32

        .type   as_linux64, @function
as_linux64:
        call    fill_boot_params
        movl    $linux64_state, %ebp
        jmp     to_long_mode
        .size   as_linux64, . - as_linux64

        .type   as_xen_pv, @function
as_xen_pv:
        movl    $xen_pv_state, %ebp
        jmp     to_long_mode
        .size   as_xen_pv, . - as_xen_pv

        .type   fill_boot_params, @function
fill_boot_params:
        movl    $HDRS, boot_params + PARAMS_HEADER
        movw    $PROTOCOL_2_15, boot_params + PARAMS_VERSION
        movb    $LOADER_UNDEFINED, boot_params + PARAMS_LOADER
        movl    $guest_command_line, boot_params + PARAMS_CMDLINE
        ret
        .size   fill_boot_params, . - fill_boot_params

        .type   to_long_mode, @function
to_long_mode:                           /* to the 64-bit code at EBP */
        movl    %ecx, %edi
        call    map_4g
        movl    $kernel_pdpt + PRESENT_WRITABLE, pml4 + 511 * 8
        movl    $directories + PRESENT_WRITABLE, kernel_pdpt + 510 * 8
        movl    %cr4, %eax
        orl     $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0
        movl    %edi, %ecx
        lgdt    gdt64_pointer
        ljmp    $CODE, $in_long_mode
        .size   to_long_mode, . - to_long_mode

        .code64

        .type   in_long_mode, @function
in_long_mode:
        LOAD_DATA_SEGMENTS
        jmp     *%rbp
        .size   in_long_mode, . - in_long_mode

        .type   linux64_state, @function
linux64_state:
        movl    $boot_params, %esi      /* also clears the upper half of RSI */
        jmp     second_entry
        .size   linux64_state, . - linux64_state

        .type   xen_pv_state, @function
xen_pv_state:
        movq    $xen_start_info + KERNEL_MAP, %rsi
        movq    $stack_top + KERNEL_MAP, %rsp
        jmp     second_entry
        .size   xen_pv_state, . - xen_pv_state

/* ---- what is handed over ---- */

        .section .rodata.tables, "a"
        .balign 8
multiboot1_info:
        .long   MULTIBOOT1_HAS_CMDLINE
        .skip   MULTIBOOT1_CMDLINE - 4
        .long   guest_command_line
        .skip   88 - MULTIBOOT1_CMDLINE - 4     /* the flags mark the rest as absent */

        .balign 8
multiboot2_info:
        .long   multiboot2_end - multiboot2_info
        .long   0
1:      .long   MULTIBOOT2_TAG_CMDLINE
        .long   2f - 1b
        .asciz  "console=ttyS0"
2:      .balign 8
        .long   0, 8                            /* the tag that ends the list */
multiboot2_end:

        .balign 8
xen_start_info:
        .asciz  "xen-3.0-x86_64"
        .org    xen_start_info + PV_PT_BASE
        .quad   pml4 + KERNEL_MAP
        .quad   7                               /* page tables: pml4, two pdpts, four directories */
        .org    xen_start_info + PV_CMDLINE
        .asciz  "console=hvc0"
        .org    xen_start_info + PV_SIZE

        DESCRIPTOR_TABLE gdt32, FLAT_CODE32
        DESCRIPTOR_TABLE gdt64, FLAT_CODE64

/* ---- texts ---- */

        .balign 4
protocols:
        CHOICE  multiboot1, as_multiboot1
        CHOICE  multiboot2, as_multiboot2
        CHOICE  linux32, as_linux32
        CHOICE  linux64, as_linux64
        CHOICE  xen-pv, as_xen_pv
        .long   0

        .section .rodata
guest_command_line:
        .asciz  "console=ttyS0"
option: .asciz  "as="
announcement:
        .asciz  "entered as "
line_end:
        .asciz  "\r\n"
complaint:
        .asciz  "as= names no protocol that is known here\r\n"

        .bss
        .balign 4096
kernel_pdpt:                            /* for the addresses from KERNEL_MAP on */
        .skip   4096
boot_params:
        .skip   4096
stack:  .skip   4096
stack_top:
