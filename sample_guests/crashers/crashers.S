/* crashers: the classic early deaths, one symbol each, chosen by the command line: `crash=NAME`; without it, wild-esp.
 *
 *   wild-esp         the first push after paging is on, with an ESP that points to nothing: #PF, which itself needs the stack
 *   page-fault       paging is turned on with tables that do not map the code: #PF at the instruction after it
 *   wrmsr            a value that the register does not accept: #GP at the wrmsr
 *   virtual-address  a jump to the link-time address, 3 GiB up, before paging maps it
 *   endless-loop     jmp to itself: only a time-out shows that nothing happens
 *   hlt              hlt with interrupts off: nothing ever wakes the CPU
 *   zeros            a jump into memory that was never written: each 00 00 is an add, up to the end of memory
 *
 * deaths.inc has further ones, with tables, stacks and handlers of their own.
 *
 * The symbol is the name with underscores. Before its death the guest prints `crash: NAME` on COM1. Its IDT is empty, like
 * that of most kernels this early: neither a fault nor the double fault that follows can be delivered, so the CPU shuts
 * down and its state can still be examined (QEMU: -no-reboot -no-shutdown). For an unknown name it prints the name and ends
 * QEMU with status 35.
 */

        .file   "crashers.S"

        .include "guest.inc"

        .set    EXIT_UNKNOWN_CRASH, 17
        .set    NO_MEMORY, 0xd0000000           /* neither RAM nor a device here, on pc, q35 and microvm of any size */
        .set    LINKED_AT, 0xc0000000           /* where most 32-bit kernels are linked: 3 GiB up */
        .set    NEVER_WRITTEN, 0x400000
        .set    CR4_PSE, 1 << 4
        .set    FIRST_4M, 0x83                  /* a page directory entry: present, writable, one page of 4 MiB */
        .set    MSR_VM_HSAVE_PA, 0xc0010117

        PVH_NOTE pvh_start

/* ---- the code ---- */

        .text
        .code32

        .globl  pvh_start
        .type   pvh_start, @function
pvh_start:
        movl    $stack_top, %esp
        cld
        lidt    empty_idt
        LOAD_COMMAND_LINE
        movl    $option, %esi
        movl    $crashes, %edi
        call    choose
        testl   %eax, %eax
        jz      complain
        movl    %eax, %ebp
        movl    $announcement, %esi
        call    print
        movl    (%edi), %esi
        call    print
        movl    $line_end, %esi
        call    print
        jmp     *%ebp

complain:
        movl    $complaint, %esi
        call    print
        movl    $EXIT_UNKNOWN_CRASH, %eax
        jmp     exit
        .size   pvh_start, . - pvh_start

        CHOOSE_ROUTINE
        PRINT_ROUTINE
        EXIT_ROUTINE

/* ---- the deaths ---- */

        .macro  DEATH name
        .globl  \name
        .type   \name, @function
\name:
        .endm

        .macro  ENABLE_PAGING
        movl    $page_directory, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0
        .endm

        DEATH   wild_esp
        movl    $FIRST_4M, page_directory
        movl    %cr4, %eax
        orl     $CR4_PSE, %eax
        movl    %eax, %cr4
        ENABLE_PAGING
        movl    $NO_MEMORY, %esp        /* before paging this is not a fault: a push to an address without memory is lost */
wild_push:
        pushl   %eax
        jmp     exit

        DEATH   page_fault
        ENABLE_PAGING
after_paging:
        jmp     exit                    /* never fetched */

        DEATH   wrmsr
        movl    $MSR_VM_HSAVE_PA, %ecx  /* accepts only whole pages, or does not exist: #GP; with EFER, TCG would not fault */
        movl    $1, %eax
        xorl    %edx, %edx
faulting_wrmsr:
        wrmsr
        jmp     exit

        DEATH   virtual_address
        movl    $1f + LINKED_AT, %eax
        jmp     *%eax
1:      jmp     exit

        DEATH   endless_loop
        jmp     endless_loop

        DEATH   hlt
        cli
        hlt
after_hlt:
        jmp     exit

        DEATH   zeros
        xorl    %eax, %eax
        movl    $NEVER_WRITTEN, %ecx
        jmp     *%ecx

        .include "crashers/deaths.inc"

/* ---- the data ---- */

        .data
        .balign 4
crashes:
        CHOICE  wild-esp, wild_esp
        CHOICE  page-fault, page_fault
        CHOICE  wrmsr, wrmsr
        CHOICE  virtual-address, virtual_address
        CHOICE  endless-loop, endless_loop
        CHOICE  hlt, hlt
        CHOICE  zeros, zeros
        CHOICE  null-pointer, null_pointer
        CHOICE  null-call, null_call
        CHOICE  null-call-early, null_call_early
        CHOICE  wild-return, wild_return
        CHOICE  data-executed, data_executed
        CHOICE  own-code, own_code
        CHOICE  read-only, read_only
        CHOICE  stack-overflow, stack_overflow
        CHOICE  stack-into-tables, stack_into_tables
        CHOICE  stack-into-code, stack_into_code
        CHOICE  esp-rom, esp_rom
        CHOICE  esp-no-ram, esp_no_ram
        CHOICE  timer, timer
        CHOICE  idt-selector, idt_selector
        CHOICE  idt-short, idt_short
        CHOICE  handled, handled
        CHOICE  nested, nested
        CHOICE  nested-forever, nested_forever
        CHOICE  lgdt-missing, lgdt_missing
        CHOICE  gdt-selector, gdt_selector
        CHOICE  gdt-data, gdt_data
        CHOICE  elsewhere, elsewhere
        CHOICE  cr3-level, cr3_level
        CHOICE  cr3-rom, cr3_rom
        CHOICE  cr3-nowhere, cr3_nowhere
        CHOICE  no-lme, no_lme
        CHOICE  no-pse, no_pse
        CHOICE  own-tables, own_tables
        CHOICE  non-canonical, non_canonical
        CHOICE  divide, divide
        CHOICE  divide-overflow, divide_overflow
        CHOICE  sse, sse
        CHOICE  xsave, xsave
        CHOICE  feature, feature
        CHOICE  keyboard-reset, keyboard_reset
        CHOICE  cf9-reset, cf9_reset
        CHOICE  power-off, power_off
        CHOICE  acpi-reset, acpi_reset
        CHOICE  acpi-power-off, acpi_power_off
        CHOICE  no-exit-device, no_exit_device
        CHOICE  watchdog, watchdog
        CHOICE  watchdog-pci, watchdog_pci
        CHOICE  words, words
        CHOICE  second-cpu, second_cpu
        CHOICE  started-twice, started_twice
        CHOICE  double-sipi, double_sipi
        .long   0

empty_idt:
        .word   0
        .long   0

option: .asciz  "crash="
announcement:
        .asciz  "crash: "
line_end:
        .asciz  "\r\n"
complaint:
        .asciz  "crash= names no death that is known here\r\n"

        .bss
        .balign 4096
page_directory:                         /* empty: nothing is mapped */
        .skip   4096
        .balign 16
stack:  .skip   4096
stack_top:
