/* A 32-bit guest that takes the way of Linux for 32-bit PCs from its PVH entry to rest_init, with PAE paging, under the same names.
 *
 * In rest_init it executes cmov, which a 486 does not know; the handler of #UD halts, as Linux's early one does. It is linked at
 * KVA + 16 MiB and loaded at 16 MiB. Behind the code lie bytes and pointers by which the image can be known where it was moved.
 */

        .set    KVA, 0xc0000000
        .set    NOTE_PHYS32_ENTRY, 18
        .set    CODE, 0x10
        .set    DATA, 0x18

        .section .note.Xen, "a", @note
        .balign 4
        .long   2f - 1f, 4f - 3f, NOTE_PHYS32_ENTRY
1:      .asciz  "Xen"
2:
3:      .long   pvh_start_xen - KVA
4:

        .text
        .code32
        .macro  function name
        .globl  \name
        .type   \name, @function
\name:
        .endm

        function pvh_start_xen
        cld
        lgdt    gdt_pointer - KVA
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    %cr4, %eax
        orl     $0x20, %eax             /* CR4.PAE */
        movl    %eax, %cr4
        movl    $(pdpt - KVA), %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmp    $CODE, $higher_half

        function higher_half
        movl    $stack, %esp
        call    i386_start_kernel

        function i386_start_kernel
        movl    $early_fixup_exception, %eax
        movw    %ax, idt + 8 * 6
        movw    $CODE, idt + 8 * 6 + 2
        movw    $0x8e00, idt + 8 * 6 + 4
        shrl    $16, %eax
        movw    %ax, idt + 8 * 6 + 6
        lidt    idt_pointer
        call    start_kernel

        function start_kernel
        nop
        call    rest_init

        function rest_init
        movl    $1, %eax
        cmovel  %eax, %ebx
1:      jmp     1b

        function early_fixup_exception
        cli
        hlt
        jmp     early_fixup_exception

        .balign 64
        .set    value, 0x12345
        .rept   1024
        .set    value, (value * 1103515245 + 12345) & 0x3fffffff
        .long   value, value >> 7 & 0x3fffffff, rest_init, start_kernel
        .endr

        .data
        .balign 8
gdt:    .quad   0, 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt - KVA
idt_pointer:
        .word   8 * 7 - 1
        .long   idt
        .balign 4096
pd:     .set    page, 0
        .rept   512                     /* the first GiB, in pages of 2 MiB */
        .long   page + 0x83, 0
        .set    page, page + 0x200000
        .endr
pdpt:   .long   pd - KVA + 1, 0, 0, 0, 0, 0, pd - KVA + 1, 0

        .bss
        .balign 16
idt:    .skip   8 * 7
        .skip   4096
stack:
