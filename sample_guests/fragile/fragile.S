/* fragile: relies on one thing that the PVH ABI does not promise: `relies=NAME` on the command line, else in the first module (which
 * ends with a zero); without it, on nothing.
 *
 * Each name is that of a mutation of `pvhdbg stress`: with it the guest dies (ud2 with an empty IDT: a triple fault), and without it,
 * it reaches `survived`, prints a line on COM1 and ends QEMU with status 33. The names, and what is relied on, are in the table at the end.
 * A name that it does not know prints itself and ends QEMU with status 35.
 */

        .file   "fragile.S"

        .include "guest.inc"

        .set    EXIT_UNKNOWN, 17
        .set    EXIT_SURVIVED, 16
        .set    START_INFO_VERSION, 4
        .set    START_INFO_FLAGS, 8
        .set    START_INFO_MODULES, 12
        .set    START_INFO_MODULE_LIST, 16
        .set    START_INFO_RSDP, 32
        .set    START_INFO_MAP, 40
        .set    START_INFO_MAP_ENTRIES, 48
        .set    START_INFO_SIZE, 56
        .set    MODULE_SIZE, 32
        .set    MAP_ENTRY_SIZE, 24
        .set    RAM, 1
        .set    KNOWN_FLAGS, 0xff1f
        .set    SOMEWHERE, 0x1000000            /* RAM that nothing has a reason to write */
        .set    EFLAGS_DF, 1 << 10
        .set    LINE_LIMIT, 2048
        .set    MAP_LIMIT, 128
        .set    CPUID_NX, 1 << 20
        .set    CPUID_SSE3, 1
        .set    CPUID_PAE, 1 << 6
        .set    CPUID_X2APIC, 1 << 21
        .set    PIC, 0x20

        PVH_NOTE pvh_start

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    %ecx, entry_ecx
        movl    %esp, entry_esp
        movl    %ebx, entry_ebx
        movl    $stack_top, %esp
        pushfl
        popl    entry_flags
        cld
        sidt    entry_idt
        lidt    empty_idt

        LOAD_COMMAND_LINE
        call    chosen
        cmpl    $on_nothing, %eax
        jne     1f
        movl    entry_ebx, %ecx         /* not on the command line: in the first module? */
        cmpl    $0, START_INFO_MODULES(%ecx)
        je      1f
        movl    START_INFO_MODULE_LIST(%ecx), %ecx
        movl    (%ecx), %ebx
        call    chosen
1:      testl   %eax, %eax
        jnz     2f
        movl    $complaint, %esi
        call    print
        movl    $EXIT_UNKNOWN, %eax
        jmp     exit

2:      movl    entry_ebx, %ebx
        movl    entry_esp, %ecx
        jmp     *%eax
        .size   pvh_start, . - pvh_start

/* chosen: EAX becomes the address of the check that the text at EBX names, 0 where it names an unknown one.
 * Changes all but ESP.
 */
        .type   chosen, @function
chosen:
        movl    $option, %esi
        movl    $reliances, %edi
        call    choose
        ret
        .size   chosen, . - chosen

        .globl  survived
        .type   survived, @function
survived:
        movl    $success, %esi
        call    print
        movl    $EXIT_SURVIVED, %eax
        jmp     exit
        .size   survived, . - survived

        .globl  relied
        .type   relied, @function
relied:
        ud2
        .size   relied, . - relied

        CHOOSE_ROUTINE
        PRINT_ROUTINE
        EXIT_ROUTINE

/* ---- what is relied on: EBX points to start_info, ECX is the loader's esp ---- */

        .macro  RELIES name
        .type   \name, @function
\name:
        .endm

        /* DIES_IF cc, after a comparison; else it survives. */
        .macro  DIES_IF condition
        j\condition relied
        jmp     survived
        .endm

        RELIES  on_nothing
        jmp     survived

        RELIES  on_registers            /* QEMU's firmware left the entry's address in ecx */
        cmpl    $pvh_start, entry_ecx
        DIES_IF ne

        RELIES  on_flags
        testl   $EFLAGS_DF, entry_flags
        DIES_IF nz

        RELIES  on_either               /* on the registers or on the flags, as they were: neither mutation alone kills it */
        cmpl    $pvh_start, entry_ecx
        je      survived
        testl   $EFLAGS_DF, entry_flags
        DIES_IF nz

        RELIES  on_esp
        testl   %ecx, %ecx
        DIES_IF z

        RELIES  on_stack                /* the loader's stack is memory */
        testl   %ecx, %ecx
        jz      survived
        movl    $SOMEWHERE, -4(%ecx)
        cmpl    $SOMEWHERE, -4(%ecx)
        DIES_IF ne

        RELIES  on_cr2
        movl    %cr2, %eax
        testl   %eax, %eax
        DIES_IF nz

        RELIES  on_gdt                  /* the loader's GDT is still there: ds is loaded again; a fault ends the guest */
        movl    %ds, %eax
        movl    %eax, %ds
        jmp     survived

        RELIES  on_selectors
        movl    %cs, %eax
        cmpw    $8, %ax
        DIES_IF ne

        RELIES  on_fs                   /* fs is not null; it is not loaded, which would rely on the GDT, too */
        movl    %fs, %eax
        testw   %ax, %ax
        DIES_IF z

        RELIES  on_tr                   /* the task register was never loaded */
        str     %ax
        testw   %ax, %ax
        DIES_IF nz

        RELIES  on_idt
        cmpw    $0, entry_idt
        DIES_IF e

        RELIES  on_timer                /* no interrupt of the timer is pending and let through */
        inb     $PIC + 1, %al
        testb   $1, %al
        jnz     survived
        movb    $0x0a, %al
        outb    %al, $PIC
        inb     $PIC, %al
        testb   $1, %al
        DIES_IF nz

        RELIES  on_nx
        movl    $0x80000001, %eax
        cpuid
        testl   $CPUID_NX, %edx
        DIES_IF z

        RELIES  on_sse3
        movl    $1, %eax
        cpuid
        testl   $CPUID_SSE3, %ecx
        DIES_IF z

        RELIES  on_pae
        movl    $1, %eax
        cpuid
        testl   $CPUID_PAE, %edx
        DIES_IF z

        RELIES  on_x2apic
        movl    $1, %eax
        cpuid
        testl   $CPUID_X2APIC, %ecx
        DIES_IF z

        RELIES  on_clear_ram
        cmpl    $0, SOMEWHERE
        DIES_IF ne

        RELIES  on_not_high             /* start_info is not in the last MiB of the RAM around SOMEWHERE */
        call    ram_end
        subl    $0x100000, %eax
        cmpl    %eax, %ebx
        DIES_IF ae

        RELIES  on_not_low
        cmpl    $0x2000, %ebx
        DIES_IF b

        RELIES  on_even
        testl   $1, %ebx
        DIES_IF nz

        RELIES  on_page
        leal    START_INFO_SIZE(%ebx), %eax
        testl   $0xfff, %eax
        DIES_IF z

        RELIES  on_near                 /* the command line is within a MiB of start_info */
        movl    START_INFO_CMDLINE(%ebx), %eax
        subl    %ebx, %eax
        jns     1f
        negl    %eax
1:      cmpl    $0x100000, %eax
        DIES_IF a

        RELIES  on_command_line
        cmpl    $0, START_INFO_CMDLINE(%ebx)
        DIES_IF e

        RELIES  on_words
        movl    START_INFO_CMDLINE(%ebx), %eax
        testl   %eax, %eax
        jz      survived
        cmpb    $0, (%eax)
        DIES_IF e

        RELIES  on_short_line
        call    line_length
        cmpl    $LINE_LIMIT, %ecx
        DIES_IF a

        RELIES  on_ascii
        movl    START_INFO_CMDLINE(%ebx), %eax
        testl   %eax, %eax
        jz      survived
1:      cmpb    $0, (%eax)
        js      relied
        je      survived
        incl    %eax
        jmp     1b

        RELIES  on_few_modules
        cmpl    $8, START_INFO_MODULES(%ebx)
        DIES_IF a

        RELIES  on_module_bytes         /* no module has 1 byte */
        movl    $1, %edx
        jmp     no_module_of
        RELIES  on_module               /* no module has 0 bytes */
        xorl    %edx, %edx
no_module_of:
        movl    START_INFO_MODULES(%ebx), %ecx
        movl    START_INFO_MODULE_LIST(%ebx), %eax
1:      jecxz   2f
        cmpl    %edx, 8(%eax)
        je      relied
        addl    $MODULE_SIZE, %eax
        decl    %ecx
        jmp     1b
2:      jmp     survived

        RELIES  on_no_module_line
        movl    START_INFO_MODULE_LIST(%ebx), %eax
        cmpl    $0, 16(%eax)
        DIES_IF ne

        RELIES  on_module_line
        movl    START_INFO_MODULE_LIST(%ebx), %eax
        cmpl    $0, 16(%eax)
        DIES_IF e

        RELIES  on_module_reserved
        movl    START_INFO_MODULE_LIST(%ebx), %eax
        cmpl    $0xa5a5a5a5, 24(%eax)
        DIES_IF e

        RELIES  on_order                /* each entry of the map is above the one before */
        call    map_of
1:      decl    %ecx
        jle     survived
        movl    4(%esi), %eax
        cmpl    MAP_ENTRY_SIZE + 4(%esi), %eax
        ja      relied
        jb      2f
        movl    (%esi), %eax
        cmpl    MAP_ENTRY_SIZE(%esi), %eax
        ja      relied
2:      addl    $MAP_ENTRY_SIZE, %esi
        jmp     1b

        RELIES  on_merged               /* no RAM begins where RAM ends, in a map of a usual size */
        call    map_of
        cmpl    $MAP_LIMIT, %ecx
        ja      survived
1:      decl    %ecx
        jle     survived
        cmpl    $RAM, 16(%esi)
        jne     2f
        cmpl    $RAM, MAP_ENTRY_SIZE + 16(%esi)
        jne     2f
        movl    (%esi), %eax
        addl    8(%esi), %eax
        cmpl    MAP_ENTRY_SIZE(%esi), %eax
        je      relied
2:      addl    $MAP_ENTRY_SIZE, %esi
        jmp     1b

        RELIES  on_short_map
        cmpl    $MAP_LIMIT, START_INFO_MAP_ENTRIES(%ebx)
        DIES_IF a

        RELIES  on_usual_types          /* neither PMEM nor its like */
        movl    $5, %edx
        movl    $7, %ebp
        jmp     no_type_from
        RELIES  on_known_types
        movl    $8, %edx
        movl    $-1, %ebp
no_type_from:
        call    map_of
1:      jecxz   2f
        cmpl    %edx, 16(%esi)
        jb      3f
        cmpl    %ebp, 16(%esi)
        jbe     relied
3:      addl    $MAP_ENTRY_SIZE, %esi
        decl    %ecx
        jmp     1b
2:      jmp     survived

        RELIES  on_version              /* there is a memory map, or at least a module */
        cmpl    $0, START_INFO_MODULES(%ebx)
        jne     survived
        cmpl    $0, START_INFO_VERSION(%ebx)
        DIES_IF e

        RELIES  on_version_of_modules   /* who hands over modules hands over a memory map */
        cmpl    $0, START_INFO_MODULES(%ebx)
        je      survived
        cmpl    $0, START_INFO_VERSION(%ebx)
        DIES_IF e

        RELIES  on_this_version
        cmpl    $1, START_INFO_VERSION(%ebx)
        DIES_IF a

        RELIES  on_rsdp
        cmpl    $0, START_INFO_RSDP(%ebx)
        DIES_IF e

        RELIES  on_flags_of_today
        testl   $~KNOWN_FLAGS, START_INFO_FLAGS(%ebx)
        DIES_IF nz

/* ---- helpers ---- */

/* map_of: ESI becomes the address of the memory map, ECX its number of entries; 0 for version 0. */
        .type   map_of, @function
map_of:
        xorl    %ecx, %ecx
        cmpl    $0, START_INFO_VERSION(%ebx)
        je      1f
        movl    START_INFO_MAP(%ebx), %esi
        movl    START_INFO_MAP_ENTRIES(%ebx), %ecx
1:      ret
        .size   map_of, . - map_of

/* ram_end: EAX becomes the highest end of RAM below 4 GiB, by the memory map; 4 GiB - 1 MiB without one. */
        .type   ram_end, @function
ram_end:
        movl    $0xfff00000, %eax
        call    map_of
        jecxz   3f
        xorl    %eax, %eax
1:      cmpl    $RAM, 16(%esi)
        jne     2f
        cmpl    $0, 4(%esi)
        jne     2f
        movl    (%esi), %edx
        addl    8(%esi), %edx
        jc      2f
        cmpl    %eax, %edx
        jbe     2f
        movl    %edx, %eax
2:      addl    $MAP_ENTRY_SIZE, %esi
        decl    %ecx
        jnz     1b
3:      ret
        .size   ram_end, . - ram_end

/* line_length: ECX becomes the length of the command line, 0 without one. */
        .type   line_length, @function
line_length:
        xorl    %ecx, %ecx
        movl    START_INFO_CMDLINE(%ebx), %eax
        testl   %eax, %eax
        jz      2f
1:      cmpb    $0, (%eax,%ecx)
        je      2f
        incl    %ecx
        jmp     1b
2:      ret
        .size   line_length, . - line_length

/* ---- the data ---- */

        .data
        .balign 4
reliances:
        CHOICE  nothing, on_nothing
        CHOICE  registers-garbage, on_registers
        CHOICE  flags-garbage, on_flags
        CHOICE  either, on_either
        CHOICE  esp-zero, on_esp
        CHOICE  esp-outside, on_stack
        CHOICE  cr2-garbage, on_cr2
        CHOICE  gdt-gone, on_gdt
        CHOICE  selectors-other, on_selectors
        CHOICE  fs-gs-null, on_fs
        CHOICE  tr-limit, on_tr
        CHOICE  idt-empty, on_idt
        CHOICE  interrupt-pending, on_timer
        CHOICE  cpu-no-nx, on_nx
        CHOICE  cpu-no-sse3, on_sse3
        CHOICE  cpu-no-pae, on_pae
        CHOICE  cpu-no-x2apic, on_x2apic
        CHOICE  ram-pattern, on_clear_ram
        CHOICE  place-high, on_not_high
        CHOICE  place-low, on_not_low
        CHOICE  place-odd, on_even
        CHOICE  place-page-end, on_page
        CHOICE  place-apart, on_near
        CHOICE  cmdline-absent, on_command_line
        CHOICE  cmdline-empty, on_words
        CHOICE  cmdline-long, on_short_line
        CHOICE  cmdline-high-bytes, on_ascii
        CHOICE  modules-many, on_few_modules
        CHOICE  module-byte, on_module_bytes
        CHOICE  module-empty, on_module
        CHOICE  module-cmdline, on_no_module_line
        CHOICE  module-cmdline-absent, on_module_line
        CHOICE  module-reserved, on_module_reserved
        CHOICE  map-unsorted, on_order
        CHOICE  map-split, on_merged
        CHOICE  map-many, on_short_map
        CHOICE  map-other-types, on_usual_types
        CHOICE  map-future-types, on_known_types
        CHOICE  version-0, on_version
        CHOICE  version-0-module, on_version_of_modules
        CHOICE  version-2, on_this_version
        CHOICE  rsdp-zero, on_rsdp
        CHOICE  flags-future, on_flags_of_today
        .long   0

empty_idt:
        .word   0
        .long   0

        .section .rodata
option: .asciz  "relies="
success:
        .asciz  "fragile: survived\r\n"
complaint:
        .asciz  "fragile: give relies=NAME, as in relies=ram-pattern\r\n"

        .bss
        .balign 16
        .skip   4096
stack_top:
entry_ecx:
        .skip   4
entry_esp:
        .skip   4
entry_ebx:
        .skip   4
entry_flags:
        .skip   4
entry_idt:
        .skip   8
