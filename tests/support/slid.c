/* A 64-bit guest that moves itself as a decompressor with KASLR does, for tests of drgn: it copies itself MOVED bytes further, adds SLID to
 * its pointers, and runs on there at its linked addresses + SLID. `entry` is before that, `later` behind it; -DMOVED -DSLID, multiples
 * of 2 MiB. It is linked at KVA + 16 MiB and loaded at 16 MiB. */

struct task { int pid; char comm[16]; struct task *parent; };
struct task init_task = { 7, "swapper", &init_task };
int counter = 1;
struct task *const pointers[] = { &init_task, &init_task, &init_task, &init_task, &init_task, &init_task };

#define TEXT(x) #x
#define VALUE(x) TEXT(x)
#define KVA "0xffffffff80000000"

__asm__(
    ".set MOVED, " VALUE(MOVED) "\n.set SLID, " VALUE(SLID) "\n"
    ".pushsection .note.Xen,\"a\",@note; .align 4; .long 4, 4, 18; .asciz \"Xen\"; .long entry - " KVA "; .popsection\n"
    ".pushsection .rodata\n"  /* bytes by which the kernel is recognized */
    ".set x, 1; .rept 1024; .set x, (x * 1103515245 + 12345) & 0x7fffffff; .long x; .endr\n"
    ".popsection\n"
    ".pushsection .bss; .balign 4096; pml4: .skip 4096; pdpt: .skip 8192; identity: .skip 4096; mapped: .skip 4096; .popsection\n"
    ".pushsection .text.head,\"ax\"; .code32; .globl entry; .type entry, @function\n"
    "entry: cld\n"
    "movl $(first - " KVA "), %esi; movl $(first - " KVA " + MOVED), %edi; movl $image_size, %ecx; rep movsb\n"
    /* its pointers */
    "movl $(pointers - " KVA " + MOVED), %edi; movl $6, %ecx\n"
    "1: addl $SLID, (%edi); addl $8, %edi; loop 1b\n"
    "addl $SLID, init_task - " KVA " + MOVED + 24\n"
    "incl counter - " KVA " + MOVED\n"
    /* the first GiB at 0, and the kernel at its linked addresses + SLID */
    "movl $(identity - " KVA "), %edi; xorl %ecx, %ecx\n"
    "1: movl %ecx, %eax; shll $21, %eax; orl $0x83, %eax; movl %eax, (%edi,%ecx,8); incl %ecx; cmpl $512, %ecx; jb 1b\n"
    "movl $(mapped - " KVA "), %edi; movl $(SLID >> 21), %ecx\n"
    "1: movl %ecx, %eax; shll $21, %eax; addl $(MOVED - SLID + 0x83), %eax; movl %eax, (%edi,%ecx,8); incl %ecx; cmpl $512, %ecx; jb 1b\n"
    "movl $(pdpt - " KVA " + 3), pml4 - " KVA "; movl $(identity - " KVA " + 3), pdpt - " KVA "\n"
    "movl $(pdpt - " KVA " + 4096 + 3), pml4 - " KVA " + 511 * 8; movl $(mapped - " KVA " + 3), pdpt - " KVA " + 4096 + 510 * 8\n"
    "movl $0x20, %eax; movl %eax, %cr4; movl $(pml4 - " KVA "), %eax; movl %eax, %cr3\n"
    "movl $0xc0000080, %ecx; rdmsr; orl $0x100, %eax; wrmsr; movl %cr0, %eax; orl $0x80000000, %eax; movl %eax, %cr0\n"
    "lgdt gdtr - " KVA "; ljmp $8, $(long_mode - " KVA ")\n"
    ".code64\n"
    "long_mode: movabs $(moved + SLID), %rax; jmp *%rax\n"
    "moved: movl $(first - " KVA "), %edi; movl $text_size, %ecx; xorl %eax, %eax; rep stosb\n"
    ".globl later; .type later, @function\n"
    "later: incl counter(%rip)\n"
    "there: jmp there\n"
    ".balign 8; gdt: .quad 0, 0x00af9b000000ffff; gdtr: .word 15; .long gdt - " KVA "\n"
    ".popsection\n");
