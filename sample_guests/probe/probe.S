/* probe: a PVH guest that reports what it was handed over, for machines without a debug stub.
 *
 * Before it changes anything it saves all registers. Then it reads its own machine state (descriptor table registers,
 * control registers, model specific registers, `lar` and `lsl` of each selector) and tests each segment by accesses that
 * fault in a smaller or moved segment. On a CPU with SVM it reads the descriptor caches. It prints all of it, with
 * start_info and what that points to, on COM1 and on the debug console (port 0xe9). `pvhdbg probe LOG` reads the log.
 *
 *   PVHPROBE1 <boot> <number> <kind> <words> *<crc>
 *
 * boot: 8 hex digits that differ from boot to boot (the time stamp counter); number: 4 hex digits, from 0; crc: CRC-32 of
 * the line from its P up to the character before the blank and the asterisk. docs/probe.md explains the kinds. The first
 * line is `begin`, the last is `end`. Each ends in CR LF and has less than 200 characters: Xen truncates longer lines on
 * its debug console.
 *
 * It only needs a usable cs, ds and ss: es, fs and gs may hold anything, RAM may be anywhere. The structures that
 * start_info points to are read within the bounds below; `gap` lines say what was left out and why.
 *
 * It ends like `hello`: through isa-debug-exit with status 33; without that device it halts for good.
 */

        .file   "probe.S"

        .include "guest.inc"

        .set    EXIT_REPORTED, 16

        .set    MODULES_BOUND, 64               /* as the decoder's: entries of the module list */
        .set    MEMORY_MAP_BOUND, 512           /* entries of the memory map */
        .set    TEXT_BOUND, 8192                /* bytes of a string, in whole steps */
        .set    TEXT_STEP, 1024                 /* a string is read up to a multiple of this */
        .set    TABLE_BOUND, 4096               /* bytes of an ACPI root table */
        .set    GDT_BOUND, 256                  /* bytes of the GDT that are printed, in addition to those in use */
        .set    OPTION_ROM_SIZE, 1536           /* as much of the ROM that the GDT lies in: it names the firmware */
        .set    LINE_BYTES, 32
        .set    UART_PATIENCE, 1000000          /* reads of a port that is never ready, after which COM1 is not used */

        /* what an access test found; the decoder knows the same numbers */
        .set    TEST_READ, 1                    /* the segment can be read */
        .set    TEST_SAME, 2                    /* ... and shows the word that was stored through ds at that offset */
        .set    TEST_ZERO, 4                    /* offset 0 can be read: not an expand-down segment */
        .set    TEST_TOP, 8                     /* offset 0xffffffff can be read */
        .set    TEST_LAST, 16                   /* the last offset that can be read was searched for and found */
        .set    TEST_WRITE, 32                  /* the segment can be written */

        .set    EFER, 0xc0000080
        .set    EFER_SVME, 0x1000
        .set    VM_HSAVE_PA, 0xc0010117
        .set    CPUID_SVM, 4                    /* in ecx of leaf 0x80000001 */
        .set    CPUID_TCG, 0x54474354           /* ebx of leaf 0x40000000: "TCGT" */
        .set    VMCB_SEGMENTS, 0x400            /* es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr: 16 bytes each */

        .set    TEXT_BASE, 0x100000             /* of guest.ld; the gates of the IDT hold it in pieces */
        .set    OWN_CODE, 0x08
        .set    OWN_DATA, 0x10
        .set    OWN_SHORT, 0x18                 /* a data segment of one page, to see whether limits are checked */

        PVH_NOTE pvh_start

/* ---- what was handed over ---- */

        .text
        .code32
text_start:

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:                              /* no flag changes up to pushf, no register but esp before it is saved */
        movl    %eax, saved_eax
        movl    %ebx, saved_ebx
        movl    %ecx, saved_ecx
        movl    %edx, saved_edx
        movl    %esi, saved_esi
        movl    %edi, saved_edi
        movl    %ebp, saved_ebp
        movl    %esp, saved_esp
        movw    %cs, selector_cs
        movw    %ss, selector_ss
        movw    %ds, selector_ds
        movw    %es, selector_es
        movw    %fs, selector_fs
        movw    %gs, selector_gs
        movl    $stack_top, %esp
        pushfl
        popl    saved_eflags
        cli
        cld
        call    1f
1:      popl    %eax                            /* where this runs, as an offset in cs */
        subl    $(1b - pvh_start), %eax
        movl    %eax, saved_eip
        sgdt    saved_gdt
        sidt    saved_idt
        sldt    selector_ldt
        str     selector_tr
        movl    %cr0, %eax
        movl    %eax, saved_cr0
        movl    %cr2, %eax
        movl    %eax, saved_cr2
        movl    %cr3, %eax
        movl    %eax, saved_cr3
        movl    %cr4, %eax
        movl    %eax, saved_cr4
        rdtsc
        movl    %eax, boot_id
        xorl    $0x50485650, %edx               /* "PVHP" */
        movl    %edx, boot_id + 4
        lgdt    %cs:gdt_pointer                 /* from here on a fault comes to `fault`; no segment is loaded by this */
        lidt    %cs:idt_pointer
        call    ask_svm
        call    test_segments
        call    read_msrs
        call    calibrate
        call    adopt
        call    test_a20
        call    report
        movl    $EXIT_REPORTED, %eax
        jmp     exit
        .size   pvh_start, . - pvh_start

/* An access that may fault goes on at EBP, with the stack at EBX. The fault has replaced cs by our own. */
        .type   fault, @function
fault:
        movl    %ebx, %esp
        movl    $1, cs_lost
        jmp     *%ebp
        .size   fault, . - fault

/* One access; on a fault control goes to `otherwise`, with nothing changed. */
.macro  TRY otherwise, instruction:vararg
        movl    $\otherwise, %ebp
        \instruction
.endm

/* The descriptor caches, on a CPU that stores them: VMSAVE stores fs, gs, ldtr and tr unchanged (AMD APM 2, 15.5.2). When
 * QEMU's TCG refuses a VMRUN (ASID 0), it has already stored the host's es, cs, ss and ds in the host save area, in the
 * VMCB's layout (target/i386/tcg/sysemu/svm_helper.c); on other CPUs that area's layout is not documented. */
        .type   ask_svm, @function
ask_svm:
        movl    $0x80000000, %eax
        cpuid
        cmpl    $0x80000001, %eax
        jb      9f
        movl    $0x80000001, %eax
        cpuid
        testl   $CPUID_SVM, %ecx
        jz      9f
        movl    %esp, %ebx
        movl    $EFER, %ecx
        TRY     9f, rdmsr
        movl    %eax, %esi
        movl    %edx, %edi
        orl     $EFER_SVME, %eax
        TRY     9f, wrmsr
        movl    $vmcb, %eax
        TRY     8f, vmsave
        movl    $1, vmsaved
        movl    $0x40000000, %eax
        cpuid
        cmpl    $CPUID_TCG, %ebx
        movl    %esp, %ebx
        jne     8f
        movl    $VM_HSAVE_PA, %ecx
        movl    $host_save, %eax
        xorl    %edx, %edx
        TRY     8f, wrmsr
        movl    $no_vmcb, %eax
        TRY     8f, vmrun
        TRY     8f, stgi                        /* which an exit clears */
        movl    $1, host_saved
8:      movl    $EFER, %ecx
        movl    %esi, %eax
        movl    %edi, %edx
        wrmsr
9:      ret
        .size   ask_svm, . - ask_svm

/* The tests of one segment register, as bits in its byte of `tests`. With once=1 the first fault ends them: it has
 * replaced cs by our own. */
.macro  TEST_SEGMENT segment, index, once=0
        movl    %esp, %ebx
        xorl    %edi, %edi
        TRY     .Ltop_\segment, movl %\segment:boot_id, %eax
        orl     $TEST_READ, %edi
        TRY     .Ltop_\segment, movl %\segment:boot_id + 4, %edx
        cmpl    boot_id, %eax
        jne     .Lzero_\segment
        cmpl    boot_id + 4, %edx
        jne     .Lzero_\segment
        orl     $TEST_SAME, %edi
        .ifnc   \segment, cs
        TRY     .Lzero_\segment, movl %eax, %\segment:boot_id
        orl     $TEST_WRITE, %edi
        .endif
.Lzero_\segment:
        xorl    %esi, %esi
        TRY     .Ltop_\segment, movb %\segment:(%esi), %al
        orl     $TEST_ZERO, %edi
.Ltop_\segment:
        testl   $TEST_ZERO, %edi
        jz      .Ldone_\segment
        movl    $0xffffffff, %esi
        TRY     .Llast_\segment, movb %\segment:(%esi), %al
        orl     $TEST_TOP, %edi
        .if     \once
.Llast_\segment:
        .else
        jmp     .Ldone_\segment
.Llast_\segment:                                /* bit by bit, from the top: the last offset that can be read */
        movl    $0x80000000, %ecx
        xorl    %edx, %edx
1:      movl    %edx, %esi
        orl     %ecx, %esi
        TRY     2f, movb %\segment:(%esi), %al
        movl    %esi, %edx
2:      shrl    $1, %ecx
        jnz     1b
        movl    %edx, found + 4 * \index
        orl     $TEST_LAST, %edi
        .endif
.Ldone_\segment:
        movl    %edi, %eax
        movb    %al, tests + \index
.endm

        .type   test_segments, @function
test_segments:
        cmpl    $0, cs_lost
        jne     2f
        TEST_SEGMENT cs, 0, once=1
        movl    $0, cs_lost                     /* what a fault took away now has been tried before */
2:      ljmp    $OWN_CODE, $1f
1:      TEST_SEGMENT ss, 1
        TEST_SEGMENT ds, 2
        TEST_SEGMENT es, 3
        TEST_SEGMENT fs, 4
        TEST_SEGMENT gs, 5
        ret
        .size   test_segments, . - test_segments

/* On a CPU with long mode the bases of fs and gs are MSRs: the cache itself. Others fault, and leave them unread. */
        .type   read_msrs, @function
read_msrs:
        movl    %esp, %ebx
        xorl    %esi, %esi
1:      movl    %cs:msr_numbers(,%esi,4), %ecx
        TRY     2f, rdmsr
        movl    %eax, msr_values(,%esi,8)
        movl    %edx, msr_values + 4(,%esi,8)
        movb    $1, msr_there(%esi)
2:      incl    %esi
        cmpl    $MSRS, %esi
        jb      1b
        ret
        .size   read_msrs, . - read_msrs

/* Does this CPU check limits? QEMU's TCG does not: there a successful read proves nothing. */
        .type   calibrate, @function
calibrate:
        movl    %esp, %ebx
        movl    $OWN_SHORT, %eax
        movw    %ax, %fs
        movl    $0x1000, %esi
        movl    $1, checks_limits
        TRY     1f, movb %fs:(%esi), %al
        movl    $0, checks_limits
1:      xorl    %eax, %eax
        movw    %ax, %fs
        movl    $1, checks_null
        TRY     2f, movb %fs:(%esi), %al
        movl    $0, checks_null
2:      ret
        .size   calibrate, . - calibrate

/* Load our own flat segments. The saved values are read through the loader's ds, since they were stored through it. */
        .type   adopt, @function
adopt:
        popl    %ebx
        movl    $OWN_DATA, %eax
        movw    %ax, %es
        movl    $saved, %esi
        movl    $fetched, %edi
        movl    $((saved_end - saved) / 4), %ecx
        rep movsl
        movl    %es:boot_id, %ecx               /* does the word that went through ds lie where a base of 0 puts it? */
        movl    %es:boot_id + 4, %edx
        movw    %ax, %ds
        movw    %ax, %ss
        movw    %ax, %fs
        movw    %ax, %gs
        movl    $stack_top, %esp
        xorl    %ebp, %ebp
        cmpl    %ecx, fetched + (boot_id - saved)
        jne     1f
        cmpl    %edx, fetched + (boot_id + 4 - saved)
        jne     1f
        incl    %ebp
1:      movl    %ebp, ds_at_zero
        movl    $fetched, %esi
        movl    $saved, %edi
        movl    $((saved_end - saved) / 4), %ecx
        rep movsl
        jmp     *%ebx
        .size   adopt, . - adopt

/* With A20 off, this odd megabyte and the even one below it are the same memory: the lower one is only read. */
        .type   test_a20, @function
test_a20:
        movl    $a20_word, %esi
        movl    %esi, %edi
        xorl    $0x100000, %edi
        movl    $2, %ecx
1:      notl    (%esi)
        lock addl $0, stack                     /* nothing may answer from a buffer */
        movl    (%edi), %eax
        cmpl    (%esi), %eax
        jne     2f
        loop    1b
        movl    $0, a20
        ret
2:      movl    $1, a20
        ret
        .size   test_a20, . - test_a20

/* ---- the report ---- */

.macro  SAY template
        movl    $\template, %esi
        call    say
.endm

        .type   report, @function
report:
        SAY     line_begin
        SAY     line_general
        SAY     line_control
        SAY     line_gdt
        SAY     line_idt
        call    say_segments
        call    say_hidden
        call    say_msrs
        SAY     line_tests
        SAY     line_entry
        SAY     line_load_text
        SAY     line_load_data
        call    say_cpuid
        call    say_descriptors
        call    say_start_info
        call    say_other_protocols
        call    say_end
        call    look_up_selectors
say_end:
        movl    line_number, %eax
        incl    %eax
        movl    %eax, word_1
        SAY     line_end
        ret
        .size   report, . - report

        .type   say_segments, @function
say_segments:
        xorl    %ebx, %ebx
1:      movl    segment_names(,%ebx,4), %eax
        movl    %eax, word_1                    /* two letters or three, zero-terminated */
        movzwl  selectors(,%ebx,2), %eax
        movl    %eax, word_2
        movzbl  tests(%ebx), %eax
        movl    %eax, word_3
        movl    found(,%ebx,4), %eax
        movl    %eax, word_4
        SAY     line_segment
        incl    %ebx
        cmpl    $SELECTORS, %ebx
        jb      1b
        ret
        .size   say_segments, . - say_segments

        .type   say_hidden, @function
say_hidden:
        cmpl    $0, host_saved
        je      1f
        movl    $cached_by_vmrun, %edi
        movl    $(host_save + VMCB_SEGMENTS), %ebp
        call    2f
1:      cmpl    $0, vmsaved
        je      9f
        movl    $cached_by_vmsave, %edi
        movl    $(vmcb + VMCB_SEGMENTS), %ebp
2:      movl    (%edi), %eax                    /* its name, and its place in the structure */
        testl   %eax, %eax
        jz      9f
        cmpl    $0x7363, %eax                   /* "cs": not the loader's, if a fault has replaced it */
        jne     3f
        cmpl    $0, cs_lost
        jne     4f
3:      movl    %eax, word_1
        movl    4(%edi), %esi
        addl    %ebp, %esi
        movzwl  (%esi), %eax
        movl    %eax, word_2
        movzwl  2(%esi), %eax
        movl    %eax, word_3
        movl    4(%esi), %eax
        movl    %eax, word_4
        movl    12(%esi), %eax
        movl    %eax, word_5
        movl    8(%esi), %eax
        movl    %eax, word_6
        SAY     line_hidden
4:      addl    $8, %edi
        jmp     2b
9:      ret
        .size   say_hidden, . - say_hidden

/* What the loader's descriptor table says of each selector: a table, which need not be what the CPU has cached.
 * This comes last, after a first `end`: where KVM emulates a guest that has paging off, it ends the machine at `lar`. */
        .type   look_up_selectors, @function
look_up_selectors:
        lgdt    saved_gdt
        xorl    %esi, %esi
1:      movzwl  selectors(,%esi,2), %ecx
        larl    %ecx, %edx
        jnz     2f
        movl    %edx, rights(,%esi,4)
        orb     $1, looked_up(%esi)
2:      lsll    %ecx, %edx
        jnz     3f
        movl    %edx, limits(,%esi,4)
        orb     $2, looked_up(%esi)
3:      incl    %esi
        cmpl    $SELECTORS, %esi
        jb      1b
        lgdt    gdt_pointer
        xorl    %ebx, %ebx
4:      movl    segment_names(,%ebx,4), %eax
        movl    %eax, word_1
        movzbl  looked_up(%ebx), %eax
        movl    %eax, word_2
        movl    rights(,%ebx,4), %eax
        movl    %eax, word_3
        movl    limits(,%ebx,4), %eax
        movl    %eax, word_4
        SAY     line_table
        incl    %ebx
        cmpl    $SELECTORS, %ebx
        jb      4b
        ret
        .size   look_up_selectors, . - look_up_selectors

        .type   say_msrs, @function
say_msrs:
        xorl    %ebx, %ebx
1:      cmpb    $0, msr_there(%ebx)
        je      2f
        movl    msr_numbers(,%ebx,4), %eax
        movl    %eax, word_1
        movl    msr_values + 4(,%ebx,8), %eax
        movl    %eax, word_2
        movl    msr_values(,%ebx,8), %eax
        movl    %eax, word_3
        SAY     line_msr
2:      incl    %ebx
        cmpl    $MSRS, %ebx
        jb      1b
        ret
        .size   say_msrs, . - say_msrs

        .type   say_cpuid, @function
say_cpuid:
        xorl    %edi, %edi
1:      movl    leaves(,%edi,4), %eax
        movl    %eax, word_1
        xorl    %ecx, %ecx
        cpuid
        movl    %eax, word_2
        movl    %ebx, word_3
        movl    %ecx, word_4
        movl    %edx, word_5
        SAY     line_cpuid
        incl    %edi
        cmpl    $LEAVES, %edi
        jb      1b
        ret
        .size   say_cpuid, . - say_cpuid

/* ---- start_info ---- */

        .type   say_start_info, @function
say_start_info:
        movl    saved_ebx, %esi
        movl    $56, %ecx
        call    dump_pointed
        movl    saved_ebx, %esi
        cmpl    $(0xffffffff - 56), %esi
        ja      9f
        cmpl    $START_INFO_MAGIC, (%esi)
        jne     9f
        movl    $info, %edi
        movl    $(56 / 4), %ecx
        rep movsl
        movl    $(info + 24), %eax              /* cmdline_paddr */
        call    say_text
        call    say_modules
        cmpl    $0, info + 4                    /* version */
        je      1f
        call    say_memory_map
1:      call    say_acpi
9:      ret
        .size   say_start_info, . - say_start_info

        .type   say_modules, @function
say_modules:
        movl    info + 12, %ecx                 /* nr_modules */
        movl    $MODULES_BOUND, %edx
        movl    $32, %ebx
        movl    $(info + 16), %eax              /* modlist_paddr */
        call    dump_array
        jc      9f
        movl    info + 12, %ecx
        cmpl    $MODULES_BOUND, %ecx
        jbe     1f
        movl    $MODULES_BOUND, %ecx
1:      movl    info + 16, %ebx
2:      testl   %ecx, %ecx
        jz      9f
        pushl   %ecx
        movl    $16, %ecx                       /* enough to tell what a module is */
        cmpl    $0, 12(%ebx)
        jne     3f
        cmpl    %ecx, 8(%ebx)
        jae     3f
        movl    8(%ebx), %ecx
3:      jecxz   4f
        movl    %ebx, %eax
        call    dump_at
4:      leal    16(%ebx), %eax
        call    say_text
        popl    %ecx
        addl    $32, %ebx
        decl    %ecx
        jmp     2b
9:      ret
        .size   say_modules, . - say_modules

        .type   say_memory_map, @function
say_memory_map:
        movl    info + 48, %ecx                 /* memmap_entries */
        movl    $MEMORY_MAP_BOUND, %edx
        movl    $24, %ebx
        movl    $(info + 40), %eax              /* memmap_paddr */
        jmp     dump_array
        .size   say_memory_map, . - say_memory_map

        .type   say_acpi, @function
say_acpi:
        movl    $36, %ecx
        movl    $(info + 32), %eax              /* rsdp_paddr */
        call    dump_at
        jc      9f
        movl    info + 32, %ebx
        cmpl    $0x20445352, (%ebx)             /* "RSD " */
        jne     9f
        cmpb    $2, 15(%ebx)
        jb      1f
        movl    20(%ebx), %ecx                  /* length */
        cmpl    $36, %ecx
        jbe     1f
        movl    %ebx, %esi
        call    dump_table
1:      movl    16(%ebx), %eax
        movl    %eax, pointer
        movl    $0, pointer + 4
        movl    $0x54445352, %edx               /* "RSDT" */
        call    say_root_table
        cmpb    $2, 15(%ebx)
        jb      9f
        movl    24(%ebx), %eax
        movl    %eax, pointer
        movl    28(%ebx), %eax
        movl    %eax, pointer + 4
        movl    $0x54445358, %edx               /* "XSDT" */
        call    say_root_table
9:      ret
        .size   say_acpi, . - say_acpi

        .type   say_root_table, @function
say_root_table:                         /* at `pointer`, with the signature EDX */
        pushl   %edx
        movl    $36, %ecx
        movl    $pointer, %eax
        call    dump_at
        popl    %edx
        jc      9f
        movl    pointer, %esi
        cmpl    %edx, (%esi)
        jne     9f
        movl    4(%esi), %ecx
        cmpl    $36, %ecx
        ja      dump_table
9:      ret
        .size   say_root_table, . - say_root_table

/* ---- other protocols, and the tables that were left loaded ---- */

        .type   say_other_protocols, @function
say_other_protocols:                    /* what tells Linux's boot_params and Draft A's start_info from nothing */
        movl    saved_esi, %esi
        movl    $1088, %ecx
        cmpl    $0x2d6e6578, (%esi)             /* "xen-" */
        je      1f
        movl    $32, %ecx
1:      call    dump_unless_blank
        movl    saved_esi, %esi
        addl    $0x200, %esi
        jc      2f
        movl    $16, %ecx
        call    dump_unless_blank
2:      ret
        .size   say_other_protocols, . - say_other_protocols

        .type   say_descriptors, @function
say_descriptors:
        movzwl  saved_gdt, %ecx
        incl    %ecx
        cmpl    $GDT_BOUND, %ecx
        jbe     1f
        movl    $GDT_BOUND, %ecx
1:      movl    saved_gdt + 2, %esi
        call    dump
        xorl    %ebx, %ebx
2:      movzwl  selectors(,%ebx,2), %esi
        testl   $4, %esi                        /* that is of an LDT */
        jnz     3f
        andl    $0xfff8, %esi
        cmpl    $GDT_BOUND, %esi
        jb      3f
        leal    7(%esi), %eax
        cmpw    saved_gdt, %ax
        ja      3f
        addl    saved_gdt + 2, %esi
        jc      3f
        movl    $8, %ecx
        call    dump
3:      incl    %ebx
        cmpl    $SELECTORS, %ebx
        jb      2b
        movl    saved_gdt + 2, %esi
        cmpl    $0xc0000, %esi
        jb      4f
        cmpl    $0xf0000, %esi
        jae     4f
        andl    $0xfffff800, %esi               /* option ROMs begin at multiples of 2 KiB */
        movl    $OPTION_ROM_SIZE, %ecx
        call    dump
4:      ret
        .size   say_descriptors, . - say_descriptors

/* ---- memory ---- */

/* ECX bytes at ESI, in `mem` lines. What would lie beyond 4 GiB is left out. Keeps EBX, EDX, EDI. */
        .type   dump, @function
dump:
        jecxz   9f
        movl    %esi, %eax
        addl    %ecx, %eax
        jnc     1f
        movl    %esi, %ecx
        negl    %ecx                            /* up to 4 GiB; 0 cannot be, since ESI is not 0 */
1:      movl    %esi, word_1
        movl    %ecx, %eax
        cmpl    $LINE_BYTES, %eax
        jbe     2f
        movl    $LINE_BYTES, %eax
2:      movl    %eax, word_2
        pushl   %esi
        SAY     line_memory
        popl    %esi
        addl    word_2, %esi
        subl    word_2, %ecx
        jnz     1b
9:      ret
        .size   dump, . - dump

/* Are the first bytes (at most 16) of ECX bytes at ESI all 0, or all 0xff? Then ZF is set, and AL is that byte.
 * Changes EDX, EDI. */
        .type   is_blank, @function
is_blank:
        movl    %ecx, %edx
        cmpl    $16, %edx
        jbe     1f
        movl    $16, %edx
1:      movl    %esi, %edi
        movb    (%esi), %al
        testb   %al, %al
        jz      2f
        cmpb    $0xff, %al
        jne     3f
2:      cmpb    %al, (%edi)
        jne     3f
        incl    %edi
        jz      3f                              /* the end of the reachable memory; ZF is set */
        decl    %edx
        jnz     2b
3:      ret
        .size   is_blank, . - is_blank

/* As `dump`, where a pointer may lead anywhere and must not be written through: blank memory is a gap. */
        .type   dump_unless_blank, @function
dump_unless_blank:
        call    is_blank
        jne     dump
        movl    $reason_blank, %eax
        jmp     gap
        .size   dump_unless_blank, . - dump_unless_blank

/* As `dump`, for what start_info points to. Where it is blank a byte is changed and put back: if it did not stay, no RAM
 * is there and a gap is reported. Carry: nothing was dumped. Keeps EBX. */
        .type   dump_pointed, @function
dump_pointed:
        pushl   %edi
        call    is_blank
        jne     1f
        movb    %al, %ah
        notb    %ah
        movb    %ah, (%esi)
        lock addl $0, stack
        cmpb    %ah, (%esi)
        movb    %al, (%esi)
        je      1f
        movl    $reason_void, %eax
        call    gap
        popl    %edi
        stc
        ret
1:      call    dump
        popl    %edi
        clc
        ret
        .size   dump_pointed, . - dump_pointed

/* As `dump_pointed`, at the 64-bit pointer that EAX points to; 0 is nothing, beyond 4 GiB is a gap. Keeps EBX, EDI. */
        .type   dump_at, @function
dump_at:
        movl    (%eax), %esi
        movl    4(%eax), %eax
        testl   %eax, %eax
        jz      1f
        movl    %eax, gap_high
        movl    $reason_far, %eax
        call    gap
        stc
        ret
1:      testl   %esi, %esi
        stc
        jz      2f
        call    dump_pointed
2:      ret
        .size   dump_at, . - dump_at

/* ECX entries of EBX bytes at the 64-bit pointer that EAX points to, at most EDX of them. Carry: nothing was dumped. */
        .type   dump_array, @function
dump_array:
        cmpl    %edx, %ecx
        jbe     1f
        movl    %edx, %ecx                      /* the decoder looks at no more either */
1:      imull   %ebx, %ecx
        jecxz   2f
        jmp     dump_at
2:      stc
        ret
        .size   dump_array, . - dump_array

/* A table of ECX bytes at ESI: as much as its bound, and a gap for the rest. Keeps EBX. */
        .type   dump_table, @function
dump_table:
        cmpl    $TABLE_BOUND, %ecx
        jbe     dump
        pushl   %ecx
        movl    $TABLE_BOUND, %ecx
        call    dump
        popl    %ecx
        subl    $TABLE_BOUND, %ecx
        movl    $reason_cut, %eax
        jmp     gap                             /* from where `dump` came to */
        .size   dump_table, . - dump_table

/* The string at the 64-bit pointer that EAX points to, step by step up to its end. Keeps EBX. */
        .type   say_text, @function
say_text:
        movl    $1, %ecx
        cmpl    $0, 4(%eax)
        jne     dump_at                         /* which says that it is out of reach */
        movl    (%eax), %esi
        testl   %esi, %esi
        jz      9f
        pushl   %ebx
        movl    %esi, %ebx
        movl    %esi, %ecx                      /* the first step goes up to a multiple of TEXT_STEP */
        negl    %ecx
        andl    $(TEXT_STEP - 1), %ecx
        jnz     1f
        movl    $TEXT_STEP, %ecx
1:      pushl   %ecx
        call    dump_pointed
        popl    %ecx
        jc      8f
2:      movl    %esi, %edi                      /* where the next step begins, from where this one does */
        subl    %ecx, %edi
        xorl    %eax, %eax
        repne scasb
        je      8f
        testl   %esi, %esi                      /* 4 GiB */
        jz      8f
        movl    %esi, %eax
        subl    %ebx, %eax
        cmpl    $TEXT_BOUND, %eax
        movl    $TEXT_STEP, %ecx
        jae     7f
        pushl   %ecx
        call    dump
        popl    %ecx
        jmp     2b
7:      movl    $reason_cut, %eax
        call    gap
8:      popl    %ebx
9:      ret
        .size   say_text, . - say_text

/* A line that says: ECX bytes at ESI (with gap_high above it) were not printed, because of EAX. */
        .type   gap, @function
gap:
        movl    %esi, word_2
        movl    %ecx, word_3
        movl    %eax, gap_reason
        movl    gap_high, %eax
        movl    %eax, word_1
        movl    gap_reason, %eax
        movl    (%eax), %eax
        movl    %eax, word_4                    /* four letters, and the zero after them in word_5 */
        movl    $0, word_5
        pushl   %esi
        SAY     line_gap
        popl    %esi
        movl    $0, gap_high
        ret
        .size   gap, . - gap

/* ---- lines ---- */

/* One line of the template at ESI, to both ports. Keeps all registers but ESI. */
        .type   say, @function
say:
        pushal
        movl    $line, %edi
        pushl   %esi
        movl    $line_head, %esi
        call    expand
        popl    %esi
        call    expand
        movl    $line, %esi
        call    checksum
        movl    $line_tail, %esi
        call    expand
        movl    $line, %esi
        call    put_com1
        movl    $line, %esi
        movl    %edi, %ecx
        subl    %esi, %ecx
        movw    $DEBUGCON, %dx
        rep outsb
        incl    line_number
        popal
        ret
        .size   say, . - say

/* The template at ESI as text at EDI. It is text with fields in it: a byte that says which, and the address of a value. */
        .type   expand, @function
expand:
        lodsb
        cmpb    $FIELD_BYTES, %al
        ja      1f
        je      4f
        testb   %al, %al
        jz      9f
        movb    %al, %cl
        lodsl
        cmpb    $FIELD_TEXT, %cl
        je      3f
        movl    (%eax), %edx
        cmpb    $FIELD_WORD, %cl
        movl    $8, %ecx
        je      2f
        shll    $16, %edx
        movl    $4, %ecx
2:      call    hex
        jmp     expand
1:      stosb
        jmp     expand
3:      movb    (%eax), %cl
        incl    %eax
        testb   %cl, %cl
        jz      expand
        movb    %cl, (%edi)
        incl    %edi
        jmp     3b
4:      pushl   %esi                            /* word_2 bytes at word_1 */
        movl    word_1, %esi
        movl    word_2, %ecx
5:      pushl   %ecx
        lodsb
        movl    %eax, %edx
        shll    $24, %edx
        movl    $2, %ecx
        call    hex
        popl    %ecx
        loop    5b
        popl    %esi
        jmp     expand
9:      ret
        .size   expand, . - expand

/* The first ECX digits of EDX, at EDI. Changes EAX. */
        .type   hex, @function
hex:
        roll    $4, %edx
        movb    %dl, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     1f
        addb    $('a' - '0' - 10), %al
1:      stosb
        loop    hex
        ret
        .size   hex, . - hex

/* line_crc becomes the CRC-32 (IEEE 802.3, as in zlib) of the bytes from ESI to EDI. */
        .type   checksum, @function
checksum:
        movl    $-1, %edx
1:      xorl    %eax, %eax
        lodsb
        xorl    %eax, %edx
        movl    $8, %ecx
2:      shrl    $1, %edx
        jnc     3f
        xorl    $0xedb88320, %edx
3:      loop    2b
        cmpl    %edi, %esi
        jb      1b
        notl    %edx
        movl    %edx, line_crc
        ret
        .size   checksum, . - checksum

/* Print the bytes from ESI to EDI on COM1, unless that was never ready. */
        .type   put_com1, @function
put_com1:
        cmpl    $0, com1_gone
        jne     9f
1:      movl    $UART_PATIENCE, %ecx
        movw    $LINE_STATUS, %dx
2:      inb     %dx, %al                        /* a machine without COM1 reads 0xff here */
        testb   $TRANSMITTER_EMPTY, %al
        jnz     3f
        loop    2b
        movl    $1, com1_gone
        ret
3:      movw    $COM1, %dx
        outsb
        cmpl    %edi, %esi
        jb      1b
9:      ret
        .size   put_com1, . - put_com1

        EXIT_ROUTINE

/* ---- the data ---- */

        .section .rodata

        .set    FIELD_WORD, 1                   /* 8 hex digits */
        .set    FIELD_HALF, 2                   /* 4 hex digits */
        .set    FIELD_TEXT, 3                   /* zero-terminated */
        .set    FIELD_BYTES, 4                  /* word_2 bytes at word_1, 2 hex digits each; has no address */

.macro  KIND label, name
\label: .ascii  "\name"
.endm
.macro  WORDS first, more:vararg
        .ascii  " "
        .byte   FIELD_WORD
        .long   \first
        .ifnb   \more
        WORDS   \more
        .endif
.endm
.macro  NAME address
        .ascii  " "
        .byte   FIELD_TEXT
        .long   \address
.endm

line_head:
        .ascii  "PVHPROBE1"
        WORDS   boot_id
        .ascii  " "
        .byte   FIELD_HALF
        .long   line_number
        .asciz  " "
line_tail:
        .ascii  " *"
        .byte   FIELD_WORD
        .long   line_crc
        .asciz  "\r\n"

        KIND    line_begin, "begin"
        .byte   0
        KIND    line_general, "general"
        WORDS   saved_eax, saved_ebx, saved_ecx, saved_edx, saved_esi, saved_edi, saved_ebp, saved_esp, saved_eip, saved_eflags
        .byte   0
        KIND    line_control, "control"
        WORDS   saved_cr0, saved_cr2, saved_cr3, saved_cr4
        .byte   0
        KIND    line_gdt, "gdt"
        WORDS   saved_gdt + 2
        .ascii  " "
        .byte   FIELD_HALF
        .long   saved_gdt
        .byte   0
        KIND    line_idt, "idt"
        WORDS   saved_idt + 2
        .ascii  " "
        .byte   FIELD_HALF
        .long   saved_idt
        .byte   0
        KIND    line_segment, "segment"
        NAME    word_1
        WORDS   word_2, word_3, word_4
        .byte   0
        KIND    line_hidden, "hidden"
        NAME    word_1
        WORDS   word_2, word_3, word_4, word_5, word_6
        .byte   0
        KIND    line_msr, "msr"
        WORDS   word_1, word_2, word_3
        .byte   0
        KIND    line_tests, "tests"
        WORDS   checks_limits, checks_null, ds_at_zero, a20
        .byte   0
        KIND    line_entry, "entry"
        WORDS   own_entry
        .byte   0
        KIND    line_load_text, "load"
        WORDS   own_text, own_text_size
        .byte   0
        KIND    line_load_data, "load"
        WORDS   own_data, own_data_size
        .byte   0
        KIND    line_cpuid, "cpuid"
        WORDS   word_1, word_2, word_3, word_4, word_5
        .byte   0
        KIND    line_memory, "mem"
        WORDS   word_1
        .ascii  " "
        .byte   FIELD_BYTES, 0
        KIND    line_gap, "gap"
        WORDS   word_1, word_2, word_3
        NAME    word_4
        .byte   0
        KIND    line_table, "table"
        NAME    word_1
        WORDS   word_2, word_3, word_4
        .byte   0
        KIND    line_end, "end"
        WORDS   word_1
        .byte   0

reason_far:     .ascii  "far\0"                 /* beyond 4 GiB, where a 32-bit guest without paging cannot look */
reason_void:    .ascii  "void"                  /* what was written there did not stay */
reason_blank:   .ascii  "fill"                  /* blank, and not written to */
reason_cut:     .ascii  "cut\0"                 /* longer than is printed */

        .balign 4
own_entry:      .long   pvh_start
own_text:       .long   load_text
own_text_size:  .long   load_text_size
own_data:       .long   load_data
own_data_size:  .long   load_data_size

segment_names:                                  /* in the order of `selectors` */
        .ascii  "cs\0\0ss\0\0ds\0\0es\0\0fs\0\0gs\0\0ldt\0tr\0\0"
cached_by_vmrun:                                /* each with its place in the save area */
        .ascii  "es\0\0"
        .long   0x00
        .ascii  "cs\0\0"
        .long   0x10
        .ascii  "ss\0\0"
        .long   0x20
        .ascii  "ds\0\0"
        .long   0x30
        .long   0
cached_by_vmsave:
        .ascii  "fs\0\0"
        .long   0x40
        .ascii  "gs\0\0"
        .long   0x50
        .ascii  "ldt\0"
        .long   0x70
        .ascii  "tr\0\0"
        .long   0x90
        .long   0

msr_numbers:                                    /* EFER, the bases of fs and gs, and what swapgs would bring */
        .long   EFER, 0xc0000100, 0xc0000101, 0xc0000102
        .set    MSRS, (. - msr_numbers) / 4
leaves: .long   0, 1, 0x40000000, 0x40000001, 0x40000100, 0x40000101, 0x80000000, 0x80000001
        .set    LEAVES, (. - leaves) / 4

        .data

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff              /* OWN_CODE: G D P S, execute/read, accessed */
        .quad   0x00cf93000000ffff              /* OWN_DATA: G B P S, read/write, accessed */
        .quad   0x0040930000000fff              /* OWN_SHORT: B P S, read/write, accessed; 4096 bytes */
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt

        .balign 8
idt:    .rept   32                              /* complete in the file, so that ds need not be where we think */
        .word   fault - text_start, OWN_CODE
        .word   0x8e00                          /* present, 32-bit interrupt gate */
        .word   TEXT_BASE >> 16
        .endr
idt_end:

a20_word:
        .long   0x50564820

        .bss

        .balign 4
saved:                                  /* all that is written before we have segments of our own */
saved_eax:      .skip   4
saved_ebx:      .skip   4
saved_ecx:      .skip   4
saved_edx:      .skip   4
saved_esi:      .skip   4
saved_edi:      .skip   4
saved_ebp:      .skip   4
saved_esp:      .skip   4
saved_eip:      .skip   4
saved_eflags:   .skip   4
saved_cr0:      .skip   4
saved_cr2:      .skip   4
saved_cr3:      .skip   4
saved_cr4:      .skip   4
boot_id:        .skip   8
selectors:
selector_cs:    .skip   2
selector_ss:    .skip   2
selector_ds:    .skip   2
selector_es:    .skip   2
selector_fs:    .skip   2
selector_gs:    .skip   2
selector_ldt:   .skip   2
selector_tr:    .skip   2
        .set    SELECTORS, (. - selectors) / 2
saved_gdt:      .skip   8               /* limit in 2 bytes, base in 4 */
saved_idt:      .skip   8
tests:          .skip   SELECTORS
found:          .skip   4 * SELECTORS   /* the limits that were searched for */
msr_values:     .skip   8 * MSRS
msr_there:      .skip   MSRS
checks_limits:  .skip   4
checks_null:    .skip   4
cs_lost:        .skip   4
vmsaved:        .skip   4
host_saved:     .skip   4
saved_end:

fetched:        .skip   saved_end - saved
ds_at_zero:     .skip   4
rights:         .skip   4 * SELECTORS   /* what `lar` says, where bit 0 of looked_up is set */
limits:         .skip   4 * SELECTORS   /* `lsl`, bit 1 */
looked_up:      .skip   SELECTORS
a20:            .skip   4
info:           .skip   56              /* start_info as it was found */
pointer:        .skip   8
gap_high:       .skip   4
gap_reason:     .skip   4
word_1:         .skip   4               /* the values of a line */
word_2:         .skip   4
word_3:         .skip   4
word_4:         .skip   4
word_5:         .skip   4
word_6:         .skip   4
line_number:    .skip   4
line_crc:       .skip   4
com1_gone:      .skip   4
line:           .skip   256

        .balign 16
stack:          .skip   4096
stack_top:

        .balign 4096
vmcb:           .skip   4096            /* where VMSAVE puts its part */
host_save:      .skip   4096
no_vmcb:        .skip   4096            /* all zero: no VMRUN takes it */
