// SPDX-License-Identifier: GPL-2.0
/* Deaths that are planted in a Linux kernel: the word planted=NAME on its command line chooses one. */

#include <linux/cpu.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/smp.h>
#include <linux/string.h>

static char planted[32];

static int __init planted_setup(char *word)
{
	strscpy(planted, word, sizeof(planted));
	return 1;
}
__setup("planted=", planted_setup);

struct device_of_ours {
	int number, state;
};

static struct device_of_ours *volatile nobody_set_it;
static volatile int depth;

static noinline int planted_read_state(void)
{
	return nobody_set_it->state;
}

static noinline int planted_recurse(int n)
{
	volatile char large[256];

	large[0] = n;
	depth++;
	return planted_recurse(n + 1) + large[0];
}

static noinline void planted_check(void)
{
	BUG_ON(!depth);
}

static noinline void planted_give_up(void)
{
	panic("planted: no device was found");
}

static void planted_on_second_cpu(void *unused)
{
	volatile long zeros[2] = { 0, 0 };

	asm volatile("cli; lidt %0; ud2" : : "m"(zeros));
}

static int __init planted_init(void)
{
	if (!planted[0])
		return 0;
	pr_info("planted: %s\n", planted);
	if (!strcmp(planted, "null"))
		return planted_read_state();
	if (!strcmp(planted, "bug"))
		planted_check();
	if (!strcmp(planted, "overflow"))
		return planted_recurse(1);
	if (!strcmp(planted, "panic"))
		planted_give_up();
	if (!strcmp(planted, "second-cpu"))
		smp_call_function_single(1, planted_on_second_cpu, NULL, 1);
	if (!strcmp(planted, "loop")) {
		local_irq_disable();
		for (;;)
			;
	}
	return 0;
}
late_initcall(planted_init);
