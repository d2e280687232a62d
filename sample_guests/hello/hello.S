/* hello: the smallest PVH guest that does everything right.
 *
 * It shows the four things that any PVH kernel needs:
 *   1. the note XEN_ELFNOTE_PHYS32_ENTRY, which tells the loader where to jump;
 *   2. an entry that uses only the flat segments and EBX of the hand-off: no stack, no IDT, no paging;
 *   3. its own stack before the first call;
 *   4. interrupts that stay off, since it has no handler for them.
 *
 * It checks the magic of the structure that EBX points to, prints one line on COM1 and ends through QEMU's
 * isa-debug-exit (-device isa-debug-exit,iobase=0xf4,iosize=4); without that device it halts for good.
 * QEMU's exit status is then 33 for "greeted", 35 for "no start_info": the device exits with (code << 1) | 1.
 * (A QEMU 10 that was started with -no-shutdown stops instead, unless -action shutdown=poweroff comes after it.)
 *
 * The code is 32-bit, as the ABI hands over; the file is ELF64, since not every loader reads ELF32.
 */

        .file   "hello.S"

        .include "guest.inc"

        .set    EXIT_GREETED, 16
        .set    EXIT_NO_START_INFO, 17

        PVH_NOTE pvh_start

/* ---- the code ---- */

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        movl    %ebx, start_info
        cld
        call    check_magic
        movl    $greeting, %esi
        call    print
        movl    $EXIT_GREETED, %eax
        jmp     exit
        .size   pvh_start, . - pvh_start

        .type   check_magic, @function
check_magic:                            /* returns only if EBX points to a start_info */
        cmpl    $START_INFO_MAGIC, (%ebx)
        jne     1f
        ret
1:      movl    $complaint, %esi
        call    print
        movl    $EXIT_NO_START_INFO, %eax
        jmp     exit
        .size   check_magic, . - check_magic

        PRINT_ROUTINE
        EXIT_ROUTINE

/* ---- the data ---- */

        .data
greeting:
        .asciz  "hello from PVH\r\n"
complaint:
        .asciz  "EBX does not point to a start_info\r\n"

        .bss
        .balign 16
start_info:                             /* where EBX pointed: physical address of hvm_start_info */
        .skip   4
        .balign 16
stack:  .skip   4096
stack_top:
