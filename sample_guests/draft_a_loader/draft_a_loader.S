/* draft_a_loader: a loader inside a guest, which hands over by Draft A of the PVH boot ABI (2015).
 *
 * No VMM ever implemented it: a year later the pointer moved from ESI to EBX, and the magic number from EAX into memory.
 * This guest is entered by the shipped PVH ABI, and passes its hand-off on to the symbol `second_entry`:
 *
 *   EAX  the magic number, 0xFF6BC1E2
 *   ESI  the proposed structure: "xen-<version>-<platform>", console, one module, and the command line itself
 *   EBX  0, so that no start_info is found where the shipped ABI has it
 *
 *      pvhdbg check draft_a_loader.elf --entry second_entry --spec draft-a
 *
 * The mail uses `unsigned long` in the structure, so that it has two layouts. Replies to the mail offered two other magic
 * numbers. The command line selects:
 *
 *   layout=64 (the first) or 32
 *   eax=0xff6bc1e2 (the first), 0x336ec578 (which became today's magic in memory) or 0x3badb002 (multiboot's with a 3)
 *
 * The first module and the command line are those of its own start_info. Without a debugger at `second_entry`, the guest
 * prints the structure's magic and command line on COM1 and exits through isa-debug-exit with code 16 (QEMU's status 33);
 * status 35 if an option is not known.
 */

        .file   "draft_a_loader.S"

        .include "guest.inc"

        .set    EXIT_ENTERED, 16
        .set    EXIT_UNKNOWN_OPTION, 17

        .set    START_INFO_NR_MODULES, 12
        .set    START_INFO_MODLIST, 16
        .set    MODULE_PADDR, 0
        .set    MODULE_SIZE, 8

        .set    EVENT_CHANNEL, 2
        .set    CMDLINE_BYTES, 1024

        PVH_NOTE pvh_start

/* ---- the loader ---- */

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        movl    %ebx, start_info
        cld
        LOAD_COMMAND_LINE
        movl    %ebx, command_line

        movl    $eax_option, %esi
        movl    $magics, %edi
        call    choose
        testl   %eax, %eax
        jz      complain
        movl    %eax, magic

        movl    command_line, %ebx
        movl    $layout_option, %esi
        movl    $layouts, %edi
        call    choose
        testl   %eax, %eax
        jz      complain
        movl    %eax, %ebp
        call    fill

        lgdt    gdt32_pointer
        ljmp    $CODE, $1f
1:      LOAD_DATA_SEGMENTS             /* fs and gs, too: Draft A names them */
        movl    magic, %eax
        movl    $start_info_page, %esi
        xorl    %ebx, %ebx
        jmp     second_entry

complain:
        movl    $complaint, %esi
        call    print
        movl    $EXIT_UNKNOWN_OPTION, %eax
        jmp     exit
        .size   pvh_start, . - pvh_start

/* A layout: where each field is. */
        .set    LAYOUT_MAGIC, 0                 /* the address of its text */
        .set    LAYOUT_CONSOLE, 4
        .set    LAYOUT_EVENT_CHANNEL, 8
        .set    LAYOUT_MODULE, 12
        .set    LAYOUT_MODULE_SIZE, 16
        .set    LAYOUT_CMDLINE, 20

        .type   fill, @function
fill:                                   /* start_info_page, by the layout at EBP; upper halves stay zero */
        movl    LAYOUT_MAGIC(%ebp), %esi
        movl    $start_info_page, %edi
        call    copy
        movl    LAYOUT_CONSOLE(%ebp), %eax
        movl    $console_page, start_info_page(%eax)
        movl    LAYOUT_EVENT_CHANNEL(%ebp), %eax
        movl    $EVENT_CHANNEL, start_info_page(%eax)

        movl    start_info, %ebx
        cmpl    $0, START_INFO_NR_MODULES(%ebx)
        je      1f
        movl    START_INFO_MODLIST(%ebx), %ebx
        movl    MODULE_PADDR(%ebx), %ecx
        movl    LAYOUT_MODULE(%ebp), %eax
        movl    %ecx, start_info_page(%eax)
        movl    MODULE_SIZE(%ebx), %ecx
        movl    LAYOUT_MODULE_SIZE(%ebp), %eax
        movl    %ecx, start_info_page(%eax)

1:      movl    command_line, %esi
        testl   %esi, %esi
        jz      2f
        movl    LAYOUT_CMDLINE(%ebp), %edi
        addl    $start_info_page, %edi
        call    copy
2:      ret
        .size   fill, . - fill

        .type   copy, @function
copy:                                   /* the text at ESI to EDI, at most so much that the zero after it still fits */
        movl    $CMDLINE_BYTES - 1, %ecx
1:      lodsb
        testb   %al, %al
        jz      2f
        stosb
        decl    %ecx
        jnz     1b
2:      ret
        .size   copy, . - copy

/* ---- the guest ---- */

        .globl  second_entry
        .type   second_entry, @function
second_entry:
        movl    $stack_top, %esp
        movl    LAYOUT_CMDLINE(%ebp), %ebp      /* a guest knows which width it was built for */
        addl    %esi, %ebp
        call    print
        movl    $colon, %esi
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

/* ---- the data ---- */

        DESCRIPTOR_TABLE gdt32, FLAT_CODE32

        .data
        .balign 4
layouts:
        CHOICE  64, layout64
        CHOICE  32, layout32
        .long   0
magics:
        CHOICE  0xff6bc1e2, 0xff6bc1e2
        CHOICE  0x336ec578, 0x336ec578
        CHOICE  0x3badb002, 0x3badb002
        .long   0

layout64:
        .long   magic64, 32, 40, 48, 56, 64
layout32:
        .long   magic32, 32, 36, 40, 44, 48

magic64:
        .asciz  "xen-4.6-x86_64"
magic32:
        .asciz  "xen-4.6-x86_32"
eax_option:
        .asciz  "eax="
layout_option:
        .asciz  "layout="
colon:  .asciz  ": "
line_end:
        .asciz  "\r\n"
complaint:
        .asciz  "eax= and layout= know: eax=0xff6bc1e2, 0x336ec578, 0x3badb002; layout=64, 32\r\n"

        .bss
        .balign 4096
start_info_page:                        /* "the start_info page" is the mail's word */
        .skip   4096
console_page:
        .skip   4096
start_info:                             /* where EBX pointed: physical address of hvm_start_info */
        .skip   4
command_line:
        .skip   4
magic:  .skip   4
        .balign 16
stack:  .skip   4096
stack_top:
