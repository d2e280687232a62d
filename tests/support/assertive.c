/* A guest in C whose kernel stops itself: an assertion fails, three calls deep, and panic() halts. It says nothing on any port.
 * With -m64 it maps the first GiB one to one, and runs in long mode. */

__asm__(".pushsection .note.Xen, \"a\", @note\n"
        ".balign 4\n.long 4, 4, 18\n.asciz \"Xen\"\n.long start\n.popsection\n");
#ifdef __x86_64__
__asm__(".bss\n.balign 4096\npml4: .skip 4096\npdpt: .skip 4096\npd: .skip 4096\n.text\n"
        ".code32\n.globl start\nstart: movl $(pdpt + 3), pml4\nmovl $(pd + 3), pdpt\nxorl %ecx, %ecx\n"
        "1: movl %ecx, %eax\nshll $21, %eax\norl $0x83, %eax\nmovl %eax, pd(,%ecx,8)\nincl %ecx\ncmpl $512, %ecx\njb 1b\n"
        "movl $0x20, %eax\nmovl %eax, %cr4\nmovl $pml4, %eax\nmovl %eax, %cr3\nmovl $0xc0000080, %ecx\nrdmsr\norl $0x100, %eax\nwrmsr\n"
        "movl %cr0, %eax\norl $0x80000000, %eax\nmovl %eax, %cr0\nlgdt gdtr\nljmp $8, $long_mode\n"
        ".balign 8\ngdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff\ngdtr: .word 23\n.long gdt\n"
        ".code64\nlong_mode: movl $16, %eax\nmovl %eax, %ss\nmovl $stack_top, %esp\nxorl %ebp, %ebp\npushq $0\ncall kernel_main\n"
        ".bss\n.balign 16\n.skip 4096\nstack_top:\n.text\n");
#else
__asm__(".globl start\nstart: movl $stack_top, %esp\nxorl %ebp, %ebp\npushl $0\nmovl $0, (%esp)\ncall kernel_main\n"
        ".bss\n.balign 16\n.skip 4096\nstack_top:\n.text\n");
#endif

__attribute__((noreturn, noinline)) static void panic(const char *message, const char *place)
{
    (void)message, (void)place;
    for (;;)
        __asm__ volatile("cli\nhlt");
}

#define assert(condition) ((condition) ? (void)0 : panic("assertion failed: " #condition, __func__))

static volatile int devices;

__attribute__((noinline)) static void find_devices(void)
{
    assert(devices > 0);
}

__attribute__((noinline)) static void start_drivers(void)
{
    find_devices();
    devices++;
}

void kernel_main(void)
{
    start_drivers();
    devices++;
}
