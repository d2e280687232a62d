/* bad_loader: a loader inside a guest, which hands over with one defect.
 *
 * A correct VMM violates no rule of the ABI. This guest is entered by PVH like any other, then plays the loader itself: it
 * builds a complete hand-off (GDT, TSS, start_info, modules, memory map, command line, RSDP, XSDT) with one defect, and
 * jumps to the symbol `second_entry`, where a debugger examines it:
 *
 *      pvhdbg check bad_loader.elf --append defect=cr0-wp --entry second_entry
 *
 * The kernel command line selects the defect. `defect=none`, or no such option, is a hand-off without a defect: unlike
 * QEMU's, its task register has the limit 0x67. `defect=v0` is a hand-off of version 0, `defect=da` one of Draft A. For an
 * unknown name the guest prints the list of all names and exits with status 35 (through QEMU's isa-debug-exit at port 0xf4;
 * without that device it shuts down by a triple fault, so that a debugger does not wait for an entry that never comes).
 *
 * How to read the code: DEFECT begins a routine that runs after the correct hand-off was built and before the jump to it.
 * Its arguments say what is wrong and which rules fail; the tests and docs/bad-loader.md use them. They are in the section
 * `.defects`, which is not loaded: a line for each defect, tab-separated.
 *
 * Some defects are missing, since a CPU (or QEMU's CPU) does not allow them: a cs that is not a code segment or not present,
 * an ss that is null or read-only, a tr that is not busy (ltr sets that), cr0.ET clear, cr0.NW without CD.
 *
 * It needs 32 MiB of RAM. The structures of its hand-off begin at 2 MiB, outside of its own image.
 */

        .file   "bad_loader.S"

        .include "guest.inc"

        .set    EXIT_ENTERED, 16                /* second_entry was reached, and no debugger stopped there */
        .set    EXIT_REFUSED, 17                /* status 35 */

        .set    CR0_PE, 1 << 0
        .set    CR0_MP, 1 << 1
        .set    CR0_EM, 1 << 2
        .set    CR0_TS, 1 << 3
        .set    CR0_NE, 1 << 5
        .set    CR0_WP, 1 << 16
        .set    CR0_AM, 1 << 18
        .set    CR0_NW, 1 << 29
        .set    CR0_CD, 1 << 30
        .set    CR0_PG, 1 << 31
        .set    CR4_PSE, 1 << 4
        .set    CR4_PAE, 1 << 5
        .set    EFLAGS_ALWAYS, 1 << 1
        .set    EFLAGS_TF, 1 << 8
        .set    EFLAGS_IF, 1 << 9
        .set    EFLAGS_VM, 1 << 17
        .set    PAGE_PRESENT_WRITABLE, 3

        .set    PIC1_MASK, 0x21
        .set    PIC2_MASK, 0xa1
        .set    SYSTEM_CONTROL_A, 0x92          /* bit 1 is the A20 gate */

        .set    NOWHERE, 0xb0000000             /* no tested machine has RAM or ROM there */

/* struct hvm_start_info, hvm_modlist_entry, hvm_memmap_table_entry: offsets of the fields */
        .set    SI_VERSION, 4
        .set    SI_FLAGS, 8
        .set    SI_NR_MODULES, 12
        .set    SI_MODLIST, 16
        .set    SI_CMDLINE, 24
        .set    SI_RSDP, 32
        .set    SI_MEMMAP, 40
        .set    SI_MEMMAP_ENTRIES, 48
        .set    SI_RESERVED, 52
        .set    MOD_PADDR, 0
        .set    MOD_SIZE, 8
        .set    MOD_CMDLINE, 16
        .set    MOD_BYTES, 32
        .set    MAP_ADDR, 0
        .set    MAP_SIZE, 8
        .set    MAP_TYPE, 16
        .set    MAP_RESERVED, 20
        .set    MAP_BYTES, 24

        PVH_NOTE pvh_start

        .pushsection .rodata.table, "a", @progbits
        .balign 4
table:                                  /* address of the name, address of the routine; ends at table_end */
        .popsection

/* DEFECT: begins a routine that puts a defect into a correct hand-off. A rule id that ends in "*" means all with that prefix.
 *
 *      name    the word after `defect=`
 *      what    what is wrong with the hand-off
 *      spoils  the rule that fails
 *      also    rules that necessarily fail with it
 *      hides   rules that become undecided
 *      needs   options of `pvhdbg check` that it needs
 */
.macro  DEFECT name, what, spoils="", also="", hides="", needs=""
        .pushsection .defects, "", @progbits
        .ascii  "\name\t\what\t\spoils\t\also\t\hides\t\needs\n"
        .popsection
        .pushsection .rodata.names, "a", @progbits
.Lname\@:
        .asciz  "\name"
        .popsection
        .pushsection .rodata.table, "a", @progbits
        .long   .Lname\@, .Ldefect\@
        .popsection
.Ldefect\@:
.endm

/* ---- the code ---- */

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        cld
        movl    $no_start_info, %esi
        cmpl    $START_INFO_MAGIC, (%ebx)
        jne     refuse
        movl    SI_CMDLINE(%ebx), %esi
        call    find_word
        call    find_defect
        testl   %eax, %eax
        jz      unknown
        pushl   %eax
        call    build
        popl    %eax
        call    *%eax
        jmp     hand_over
        .size   pvh_start, . - pvh_start

        .type   find_word, @function
find_word:                              /* ESI: a command line, or 0. Returns ESI: the word after `defect=`, or "none" */
        testl   %esi, %esi
        jz      no_word
next_word:
        lodsb
        cmpb    $' ', %al
        je      next_word
        decl    %esi
        movl    %esi, %edx
        movl    $keyword, %edi
        movl    $keyword_end - keyword, %ecx
        repe    cmpsb
        je      cut
        movl    %edx, %esi
1:      lodsb
        cmpb    $' ', %al
        je      next_word
        testb   %al, %al
        jnz     1b
no_word:
        movl    $none, %esi
        ret
cut:    movl    %esi, %edi              /* end the word where the next begins: the rest of the line is no longer needed */
2:      cmpb    $' ', (%edi)
        je      3f
        cmpb    $0, (%edi)
        je      3f
        incl    %edi
        jmp     2b
3:      movb    $0, (%edi)
        ret
        .size   find_word, . - find_word

        .type   find_defect, @function
find_defect:                            /* ESI: a name. Returns EAX: the routine of that defect, or 0. Keeps ESI */
        movl    $table, %ebx
1:      movl    (%ebx), %edi
        movl    %esi, %edx
2:      movb    (%edx), %al
        cmpb    (%edi), %al
        jne     3f
        incl    %edi
        incl    %edx
        testb   %al, %al
        jnz     2b
        movl    4(%ebx), %eax
        ret
3:      addl    $8, %ebx
        cmpl    $table_end, %ebx
        jne     1b
        xorl    %eax, %eax
        ret
        .size   find_defect, . - find_defect

        .type   unknown, @function
unknown:                                /* ESI: a name that is not in the table */
        pushl   %esi
        movl    $unknown_is, %esi
        call    print
        popl    %esi
        call    print
        movl    $known_are, %esi
        call    print
        movl    $table, %ebx
1:      movl    $space, %esi
        call    print
        movl    (%ebx), %esi
        call    print
        addl    $8, %ebx
        cmpl    $table_end, %ebx
        jne     1b
        movl    $new_line, %esi
        call    print
        jmp     give_up
        .size   unknown, . - unknown

        .type   refuse, @function
refuse:                                 /* ESI: why */
        call    print
        jmp     give_up
        .size   refuse, . - refuse

        .type   give_up, @function
give_up:
        movl    $EXIT_REFUSED, %eax
        outl    %eax, $EXIT_PORT
        lidt    no_idt                  /* without isa-debug-exit: end by a triple fault */
        ud2
        .size   give_up, . - give_up

        PRINT_ROUTINE

/* ---- the correct hand-off ---- */

        .type   build, @function
build:                                  /* the hand-off, outside of our own image */
        movl    $hand_off, %esi
        movl    $HAND_OFF, %edi
        movl    $hand_off_end - hand_off, %ecx
        rep     movsb
        movl    $module_text, %esi
        movl    $MODULE, %edi
        movl    $module_text_end - module_text, %ecx
        rep     movsb
        call    sign_xsdt
        call    sign_rsdp
        ret
        .size   build, . - build

        .type   sign_rsdp, @function
sign_rsdp:                              /* ACPI 6.2, 5.2.5.3: the first 20 bytes sum to zero, and so do all 36 */
        movl    $RSDP, %esi
        movl    $20, %ecx
        movl    $RSDP + 8, %edi
        call    sign
        movl    $36, %ecx
        movl    $RSDP + 32, %edi
        jmp     sign
        .size   sign_rsdp, . - sign_rsdp

        .type   sign_xsdt, @function
sign_xsdt:
        movl    $XSDT, %esi
        movl    $36, %ecx
        movl    $XSDT + 9, %edi
        jmp     sign
        .size   sign_xsdt, . - sign_xsdt

        .type   sign, @function
sign:                                   /* set the byte at EDI so that the ECX bytes at ESI sum to zero */
        movb    $0, (%edi)
        xorl    %eax, %eax
1:      subb    -1(%esi,%ecx), %al
        loop    1b
        movb    %al, (%edi)
        ret
        .size   sign, . - sign

/* From the first defective register on, everything is read through cs, which is the VMM's and stays good until the jump. */

        .type   hand_over, @function
hand_over:
        cli
        lgdt    gdt_pointer
        movw    $SEL_TSS, %ax
        ltr     %ax
        movw    new_fs, %fs
        movw    new_gs, %gs
        movw    new_es, %es
        movl    new_cr4, %eax
        movl    %eax, %cr4
        movl    new_eax, %eax
        movl    new_ebx, %ebx
        movl    new_esi, %esi
        movl    new_cr0, %ebp
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        xorl    %edi, %edi
        movw    new_ds, %ds
        jmp     *%cs:way
        .size   hand_over, . - hand_over

        .type   by_far_jump, @function
by_far_jump:
        movw    %cs:new_ss, %ss
        xorl    %esp, %esp
        movl    %ebp, %cr0
        movl    $0, %ebp
        ljmp    *%cs:new_eip
        .size   by_far_jump, . - by_far_jump

        .type   by_iret, @function
by_iret:                                /* for flags that no other instruction loads together with eip */
        movw    %cs:new_ss, %ss
        movl    %ebp, %cr0
        movl    $0, %ebp
        movl    $iret_frame, %esp
        iret
        .size   by_iret, . - by_iret

        .type   by_near_jump, @function
by_near_jump:                           /* with cr0.PE clear: cs keeps its hidden state until it is loaded */
        movw    %cs:new_ss, %ss
        xorl    %esp, %esp
        ljmp    $SEL_CS, $1f
1:      movl    %ebp, %cr0
        movl    $0, %ebp
        jmp     *%cs:new_eip
        .size   by_near_jump, . - by_near_jump

        .globl  second_entry
        .type   second_entry, @function
second_entry:                           /* these bytes have the same meaning in 16-bit code */
        movb    $EXIT_ENTERED, %al
        outb    %al, $EXIT_PORT
1:      hlt
        jmp     1b
        .size   second_entry, . - second_entry

        .include "bad_loader/defects.inc"

/* ---- the data ---- */

        .section .rodata
        .pushsection .rodata.table, "a", @progbits
table_end:
        .popsection

keyword:
        .ascii  "defect="
keyword_end:
none:   .asciz  "none"
no_start_info:
        .asciz  "bad_loader: EBX does not point to a start_info\r\n"
unknown_is:
        .asciz  "bad_loader: there is no "
known_are:
        .asciz  "\r\nthere are:"
space:  .asciz  " "
new_line:
        .asciz  "\r\n"
module_text:
        .ascii  "the bytes of a module"
module_text_end:

        .data

/* The values for the registers. */

new_eip:                                /* a far pointer: eip, then cs */
        .long   second_entry
new_cs: .word   SEL_CS
new_ss: .word   SEL_SS
new_ds: .word   SEL_DS
new_es: .word   SEL_ES
new_fs: .word   SEL_FS
new_gs: .word   SEL_GS
new_cr0:
        .long   CR0_PE
new_cr4:
        .long   0
new_eax:
        .long   0
new_ebx:
        .long   START_INFO
new_esi:
        .long   0
way:    .long   by_far_jump

iret_frame:                             /* used only by by_iret; esp and the rest only by an iret to virtual-8086 mode */
        .long   second_entry
        .long   SEL_CS
new_eflags:
        .long   EFLAGS_ALWAYS
        .long   0                       /* esp */
        .long   0, 0, 0, 0, 0           /* ss es ds fs gs */

no_idt: .word   0
        .long   0

        .balign 8
gdt:                                    /* limit 0-15, base 0-15; base 16-23, access, limit 16-19 and flags, base 24-31 */
        .quad   0
gdt_cs: .long   0x0000ffff, 0x00cf9b00
gdt_ds: .long   0x0000ffff, 0x00cf9300
gdt_es: .long   0x0000ffff, 0x00cf9300
gdt_ss: .long   0x0000ffff, 0x00cf9300
gdt_fs: .long   0x0000ffff, 0x00cf9300
gdt_gs: .long   0x0000ffff, 0x00cf9300
gdt_tss:
        .long   0x00000067, 0x00008900  /* at 0, available: ltr makes it busy */
gdt_end:
        .set    SEL_CS, gdt_cs - gdt
        .set    SEL_DS, gdt_ds - gdt
        .set    SEL_ES, gdt_es - gdt
        .set    SEL_SS, gdt_ss - gdt
        .set    SEL_FS, gdt_fs - gdt
        .set    SEL_GS, gdt_gs - gdt
        .set    SEL_TSS, gdt_tss - gdt
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt

/* The structures that the registers will point to. They are copied to HAND_OFF; names in capitals are their addresses there. */

        .set    HAND_OFF, 0x200000
        .set    MODULE, 0x1000000               /* two modules of a page, 16 MiB up */

        .balign 16
hand_off:
start_info:
        .long   START_INFO_MAGIC
        .long   1                       /* version */
        .long   0                       /* flags */
        .long   2                       /* nr_modules */
        .quad   MODLIST
        .quad   CMDLINE
        .quad   RSDP
        .quad   MEMMAP
        .long   (memmap_end - memmap) / MAP_BYTES
        .long   0                       /* reserved */
        .set    START_INFO, HAND_OFF + start_info - hand_off

        .balign 16
modlist:
        .quad   MODULE, 0x1000, MODULE_CMDLINE, 0
        .quad   MODULE + 0x1000, 0x1000, 0, 0
        .set    MODLIST, HAND_OFF + modlist - hand_off

        .balign 16
rsdp:   .ascii  "RSD PTR "
        .byte   0                       /* checksum */
        .ascii  "PVHDBG"
        .byte   2                       /* revision */
        .long   0                       /* no RSDT */
        .long   36                      /* length */
        .quad   XSDT
        .byte   0, 0, 0, 0              /* checksum of all, reserved */
        .set    RSDP, HAND_OFF + rsdp - hand_off

        .balign 16
xsdt:   .ascii  "XSDT"
        .long   36                      /* length: it lists no table */
        .byte   1, 0                    /* revision, checksum */
        .ascii  "PVHDBG"
        .ascii  "BADLOADR"
        .long   1
        .ascii  "PVHD"
        .long   1
        .set    XSDT, HAND_OFF + xsdt - hand_off

        .balign 16
cmdline:
        .asciz  "console=ttyS0 made by bad_loader"
        .set    CMDLINE, HAND_OFF + cmdline - hand_off
module_cmdline:
        .asciz  "ramdisk"
        .set    MODULE_CMDLINE, HAND_OFF + module_cmdline - hand_off

        .balign 16
draft_a:                                /* the 64-bit layout of the structure in the mail of 2015-06-10, up to its text */
        .asciz  "xen-4.6-x86_64"
        .org    draft_a + 32
        .quad   0                       /* console page */
        .long   0, 0                    /* event channel, padding */
        .quad   MODULE, 0x1000
        .asciz  "console=hvc0"
        .org    draft_a + 64 + 1024
        .set    DRAFT_A, HAND_OFF + draft_a - hand_off

        .balign 16
memmap:                                 /* the last part, since a defect makes it longer */
        .quad   0, 0x9fc00
        .long   1, 0
map_rom:
        .quad   0xf0000, 0x10000
        .long   2, 0
map_image:
        .quad   0x100000, 0xf00000      /* the image of this guest is here */
        .long   1, 0
        .quad   0x1000000, 0x1000000    /* and the modules here */
        .long   1, 0
memmap_end:
        .set    MEMMAP, HAND_OFF + memmap - hand_off
        .set    MAP_ROM, HAND_OFF + map_rom - hand_off
        .set    MAP_IMAGE, HAND_OFF + map_image - hand_off
        .set    MAP_END, HAND_OFF + memmap_end - hand_off
hand_off_end:

        .bss
        .balign 4096
page_directory:
        .skip   4096
page_table:
        .skip   4096
stack:  .skip   4096
stack_top:
