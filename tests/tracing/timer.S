/* A guest that lives by its timer: it counts ticks of the PIT, 100 us apart, in an interrupt handler, and halts for good after five.
 * How many instructions its loop runs meanwhile is up to the clock.
 */
        .code32
        .globl  _start
_start:
        movl    $stack, %esp
        lgdt    gdtr
        ljmp    $8, $1f
1:      movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movl    $tick, %eax                     /* the gate of vector 0x20 */
        movw    %ax, idt + 0x20 * 8
        movw    $8, idt + 0x20 * 8 + 2
        movw    $0x8e00, idt + 0x20 * 8 + 4
        shrl    $16, %eax
        movw    %ax, idt + 0x20 * 8 + 6
        lidt    idtr
        .irp    write, 0x1120, 0x2021, 0x0421, 0x0121, 0xfe21   /* the PIC: IRQ 0 is vector 0x20, all others are masked */
        movb    $\write >> 8, %al
        outb    %al, $\write & 0xff
        .endr
        movb    $0x34, %al                      /* the PIT: a rate of 1193182 / 119 a second */
        outb    %al, $0x43
        movb    $119, %al
        outb    %al, $0x40
        xorb    %al, %al
        outb    %al, $0x40
        xorl    %ebx, %ebx
        sti
2:      incl    %edx
        cmpl    $5, %ebx
        jb      2b
        cli
        hlt

tick:   incl    %ebx
        movb    $0x20, %al
        outb    %al, $0x20
        iret

        .balign 8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
idtr:   .word   0x21 * 8 - 1
        .long   idt
        .balign 8
idt:    .fill   0x21 * 8
        .fill   256
stack:
