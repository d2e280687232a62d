/* long_mode: from the PVH entry to 64-bit code, with a symbol for each step.
 *
 *   enable_pae     CR4.PAE: long mode's page tables have 64-bit entries
 *   load_cr3       the address of the page tables; they identity-map the first 4 GiB, so that no address changes
 *   enable_lme     EFER.LME: the next step then turns on long mode, not only paging
 *   enable_paging  CR0.PG: from here on EFER.LMA is set, and the code runs in compatibility mode
 *   load_gdt       a table that has a 64-bit code segment
 *   far_jump       CS gets that segment
 *   in_long_mode   the first 64-bit instruction
 *
 * It then prints each field of start_info on COM1, as `name 0xvalue`, and exits through isa-debug-exit with code 16
 * (QEMU's exit status 33). Fields that version 0 does not have are not printed. On a CPU without long mode it dies in the
 * switch, like any kernel that does not test CPUID first.
 */

        .file   "long_mode.S"

        .include "guest.inc"

        .set    EXIT_PRINTED, 16
        .set    START_INFO_VERSION, 4

        PVH_NOTE pvh_start

/* ---- 32-bit code ---- */

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        movl    %ebx, start_info
        cld
        call    map_4g

enable_pae:
        movl    %cr4, %eax
        orl     $CR4_PAE, %eax
        movl    %eax, %cr4

load_cr3:
        movl    $pml4, %eax
        movl    %eax, %cr3

enable_lme:
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr

enable_paging:
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0

load_gdt:
        lgdt    gdt64_pointer

far_jump:
        ljmp    $CODE, $in_long_mode
        .size   pvh_start, . - pvh_start

        MAP_4G_ROUTINE
        PRINT_ROUTINE
        EXIT_ROUTINE

/* ---- 64-bit code ---- */

        .code64

        .type   in_long_mode, @function
in_long_mode:
        LOAD_DATA_SEGMENTS
        movl    start_info, %ebx        /* writing EBX clears the rest of RBX */
        movl    $fields, %ebp
        movl    $fields_end, %r12d
        cmpl    $0, START_INFO_VERSION(%rbx)
        jne     print_fields
        movl    $fields_of_version_1, %r12d

print_fields:
        movl    (%rbp), %esi
        call    print
        movzwl  4(%rbp), %eax           /* the field's offset */
        movzwl  6(%rbp), %ecx           /* its size */
        movl    (%rbx,%rax), %edx
        cmpl    $4, %ecx
        je      1f
        movq    (%rbx,%rax), %rdx
1:      call    print_number
        addl    $8, %ebp
        cmpl    %r12d, %ebp
        jne     print_fields
        movl    $EXIT_PRINTED, %eax
        jmp     exit
        .size   in_long_mode, . - in_long_mode

        .type   print_number, @function
print_number:                           /* RDX, of ECX bytes, in hexadecimal and with all its digits */
        addl    %ecx, %ecx              /* two digits a byte */
        movl    $number_end, %esi
1:      movl    %edx, %eax
        andl    $15, %eax
        movb    digits(%rax), %al
        decl    %esi
        movb    %al, (%rsi)
        shrq    $4, %rdx
        decl    %ecx
        jnz     1b
        subl    $2, %esi
        movw    $0x7830, (%rsi)         /* "0x" */
        jmp     print
        .size   print_number, . - print_number

/* ---- the data ---- */

        .macro  FIELD name, offset, size
        .pushsection .rodata
.Lfield_\@:
        .asciz  "\name "
        .popsection
        .long   .Lfield_\@
        .word   \offset, \size
        .endm

        .data
fields:
        FIELD   magic, 0, 4
        FIELD   version, 4, 4
        FIELD   flags, 8, 4
        FIELD   nr_modules, 12, 4
        FIELD   modlist_paddr, 16, 8
        FIELD   cmdline_paddr, 24, 8
        FIELD   rsdp_paddr, 32, 8
fields_of_version_1:
        FIELD   memmap_paddr, 40, 8
        FIELD   memmap_entries, 48, 4
        FIELD   reserved, 52, 4
fields_end:

digits: .ascii  "0123456789abcdef"
number: .skip   2 + 16
number_end:
        .asciz  "\r\n"

        DESCRIPTOR_TABLE gdt64, FLAT_CODE64

        .bss
        .balign 16
start_info:                             /* where EBX pointed: physical address of hvm_start_info */
        .skip   4
        .balign 16
stack:  .skip   4096
stack_top:
