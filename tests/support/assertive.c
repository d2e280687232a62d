/* A guest in C whose kernel stops itself: an assertion fails, three calls deep, and panic() halts. It says nothing on any port. */

__asm__(".pushsection .note.Xen, \"a\", @note\n"
        ".balign 4\n.long 4, 4, 18\n.asciz \"Xen\"\n.long start\n.popsection\n"
        ".globl start\nstart: movl $stack_top, %esp\nxorl %ebp, %ebp\npushl $0\nmovl $0, (%esp)\ncall kernel_main\n"
        ".bss\n.balign 16\n.skip 4096\nstack_top:\n.text\n");

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
