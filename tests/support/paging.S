/* A guest that turns paging on in one of four ways and stays at `there`, for tests of page walks and of symbols.
 *
 * LEVELS (as --defsym): 2 is 32-bit paging, 3 PAE, 4 and 5 long mode. It is linked at KVA + 1 MiB and loaded at 1 MiB. The tables
 * map the first 4 MiB onto themselves and at KVA, and at 8 MiB one page of 4 KiB: the first of the kernel, read-only. In
 * long mode it also loads an IDT and a task register, whose descriptor takes 16 bytes.
 */

        .set    PRESENT, 1
        .set    WRITABLE, 3
        .set    LARGE, 0x80
        .set    NOTE_PHYS32_ENTRY, 18

        .section .note.Xen, "a", @note
        .balign 4
        .long   2f - 1f, 4f - 3f, NOTE_PHYS32_ENTRY
1:      .asciz  "Xen"
2:
3:      .long   entry - KVA
4:

        .text
        .code32
        .globl  entry
entry:
        .if LEVELS == 2
        movl    $(pt - KVA + WRITABLE), pd - KVA + 4 * 2
        movl    $(LARGE + WRITABLE), pd - KVA
        movl    $(LARGE + WRITABLE), pd - KVA + 4 * (KVA >> 22 & 1023)
        movl    $(entry - KVA + PRESENT), pt - KVA
        movl    $(pd - KVA), %eax
        movl    $0x10, %ecx             /* CR4.PSE */
        .else
        movl    $(LARGE + WRITABLE), pd - KVA
        movl    $(0x200000 + LARGE + WRITABLE), pd - KVA + 8
        movl    $(pt - KVA + WRITABLE), pd - KVA + 8 * 4
        movl    $(entry - KVA + PRESENT), pt - KVA
        .if LEVELS == 3
        movl    $(pd - KVA + PRESENT), pdpt - KVA
        movl    $(pd - KVA + PRESENT), pdpt - KVA + 8 * (KVA >> 30 & 3)
        movl    $(pdpt - KVA), %eax
        movl    $0x20, %ecx             /* CR4.PAE */
        .else
        movl    $(pd - KVA + WRITABLE), pdpt - KVA
        movl    $(pd - KVA + WRITABLE), pdpt - KVA + 8 * 510
        movl    $(pdpt - KVA + WRITABLE), pml4 - KVA
        movl    $(pdpt - KVA + WRITABLE), pml4 - KVA + 8 * 511
        movl    $(pml4 - KVA), %eax
        movl    $0x20, %ecx
        .if LEVELS == 5
        movl    $(pml4 - KVA + WRITABLE), pml5 - KVA
        movl    $(pml4 - KVA + WRITABLE), pml5 - KVA + 8 * 511
        movl    $(pml5 - KVA), %eax
        movl    $0x1020, %ecx           /* and CR4.LA57 */
        .endif
        .endif
        .endif
        movl    %ecx, %cr4
        movl    %eax, %cr3
        .if LEVELS >= 4
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x900, %eax            /* EFER.LME and EFER.NXE */
        wrmsr
        lgdt    gdt_pointer - KVA
        .endif
        movl    %cr0, %eax
        orl     $0x80000000, %eax
paging_on:
        movl    %eax, %cr0
        .if LEVELS >= 4
        ljmp    $8, $(in_long_mode - KVA)
        .code64
in_long_mode:
        movq    $handler, %rax
        movw    %ax, idt(%rip)
        movl    $0x8e010008, idt + 2(%rip)
        movw    $0x8e00, idt + 4(%rip)
        shrq    $16, %rax
        movw    %ax, idt + 6(%rip)
        shrq    $16, %rax
        movl    %eax, idt + 8(%rip)
        lidt    idt_pointer - KVA
        movq    $tss, %rax
        movw    %ax, gdt + 18(%rip)
        shrl    $16, %eax
        movb    %al, gdt + 20(%rip)
        movb    %ah, gdt + 23(%rip)
        movw    $16, %ax
        ltr     %ax
        movq    $there, %rax
        jmp     *%rax
        .else
        movl    $there, %eax
        jmp     *%eax
        .endif

        .globl  there
there:
        nop
        jmp     there

        .globl  handler
handler:
        jmp     handler

        .data
        .balign 8
        .if LEVELS >= 4
gdt:    .quad   0, 0x00af9a000000ffff
        .quad   0x0000890000000067, 0x00000000ffffffff  /* the TSS: the lower half of its base is filled in */
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt - KVA
idt_pointer:
        .word   31
        .quad   idt
tss:    .long   0
        .quad   there                   /* RSP0 */
        .skip   104 - 12
        .endif

        .bss
        .balign 4096
pml5:   .skip   4096
pml4:   .skip   4096
pdpt:   .skip   4096
pd:     .skip   4096
pt:     .skip   4096
idt:    .skip   32
