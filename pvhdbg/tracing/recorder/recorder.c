/*
 * The flight recorder of pvhdbg: a QEMU TCG plugin that keeps what every CPU executed last, and what was executed first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU loads this file, so it has QEMU's licence; the rest of pvhdbg is MIT. It needs no header of QEMU or GLib: the
 * declarations below follow include/qemu/qemu-plugin.h of QEMU 7.2 (plugin API 1), 9.0 to 10.x (2 to 6) and 11.x (7).
 *
 * Everything is written to one sparse file that is mapped shared, so a reader sees it live, and it survives a SIGKILL of
 * QEMU. pvhdbg/tracing/recording_layout.py describes the layout; both files change together (VERSION).
 *
 * Arguments: to=PATH (mandatory), entry=ADDRESS (instructions are counted from its first execution), exact=on (count each
 * instruction instead of sums over blocks), calls=on (count by calls, see count_at), stop=N (stop the machine before instruction N; implies exact),
 * mark=ADDRESS (repeatable: note when the instruction at this linear or physical address is executed first), halt=ADDRESS (repeatable: the
 * same, and stop the machine before it), times=K (note the
 * K-th execution of a mark instead), after=N (count only executions behind instruction N), clock=on (stop=N counts each iteration of a
 * REP, as QEMU's -icount does), icount=on (QEMU runs with -icount: a stop moves no timer), counts=off (do not count how often each block is executed: that
 * costs less), code=on (keep the code of blocks), chapters=on (keep the counts of blocks
 * where a chapter of the boot begins: the entry, an option ROM, 64-bit code, the first program), chapter=ADDRESS (repeatable: a chapter begins
 * with the first execution of the block there), flow=on (every executed block, to PATH.flow0 and so on for each CPU), watch=ADDRESS and watch_size=BYTES (note the last stores to physical memory there; implies exact).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if UINTPTR_MAX < UINT64_MAX
#error "the recorder packs what a block's callback needs into a pointer of 64 bits"
#endif

#define EXPORT __attribute__((visibility("default")))
#define RARE(condition) __builtin_expect(!!(condition), 0)

/* ---- QEMU's plugin API ------------------------------------------------------------------------------------------- */

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
typedef struct {
    struct qemu_plugin_scoreboard *score;
    size_t offset;
} plugin_u64;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    struct {
        int smp_vcpus, max_vcpus;
    } system;
} plugin_info;

enum { CB_NO_REGS = 0, INLINE_ADD_U64 = 0, MEM_READ_WRITE = 3, DISCONTINUITIES = 7 /* interrupts, exceptions, host calls */ };

static struct {
    void (*register_tb_trans)(plugin_id, void *callback, void *userdata); /* API < 7 ignores userdata */
    void (*register_vcpu_idle)(plugin_id, void *callback, void *userdata);
    void (*register_atexit)(plugin_id, void *callback, void *userdata);
    void (*register_discontinuity)(plugin_id, int kinds, void *callback, void *userdata); /* API >= 6 */
    void (*register_tb_exec)(struct qemu_plugin_tb *, void *callback, int flags, void *userdata);
    void (*register_insn_exec)(struct qemu_plugin_insn *, void *callback, int flags, void *userdata);
    void (*register_mem)(struct qemu_plugin_insn *, void *callback, int flags, int access, void *userdata);
    bool (*mem_is_store)(uint32_t info);
    unsigned (*mem_size_shift)(uint32_t info);
    void *(*get_hwaddr)(uint32_t info, uint64_t linear);
    bool (*hwaddr_is_io)(const void *);
    uint64_t (*hwaddr_phys)(const void *);
    void (*register_insn_inline)(struct qemu_plugin_insn *, int op, void *counter, uint64_t add);         /* API 1 */
    void (*register_insn_inline_per_vcpu)(struct qemu_plugin_insn *, int op, plugin_u64, uint64_t add);  /* API >= 2 */
    struct qemu_plugin_scoreboard *(*scoreboard_new)(size_t);
    void *(*scoreboard_find)(struct qemu_plugin_scoreboard *, unsigned);
    size_t (*tb_n_insns)(const struct qemu_plugin_tb *);
    struct qemu_plugin_insn *(*tb_get_insn)(const struct qemu_plugin_tb *, size_t);
    const void *(*insn_data_pointer)(const struct qemu_plugin_insn *);        /* API < 3 */
    size_t (*insn_data_copy)(const struct qemu_plugin_insn *, void *, size_t); /* API >= 3: the same symbol */
    size_t (*insn_size)(const struct qemu_plugin_insn *);
    uint64_t (*insn_vaddr)(const struct qemu_plugin_insn *);
    void *(*insn_haddr)(const struct qemu_plugin_insn *);
} api;

struct notifier { /* Notifier of include/qemu/notify.h */
    void (*notify)(struct notifier *, void *data);
    struct notifier *next, **before;
};

/* ---- further symbols that QEMU exports; each may be missing -------------------------------------------------------- */

static struct {
    void *(*get_cpu)(int);
    void (*dump_state)(void *cpu, FILE *, int flags);
    uint64_t (*ram_addr_from_host)(void *);
    void (*leave_block)(void *cpu, uintptr_t from); /* does not return */
    int (*vm_stop)(int state);
    bool (*is_running)(void);
    uint32_t (*arithmetic_flags)(void *env, int cc_op); /* QEMU 10 takes no second argument, and ignores it */
    bool *qtest_allowed; /* see has_work */
    void (*add_rcu_notifier)(struct notifier *);
    void *(*main_context)(void);
    int64_t (*waits_for)(void *context); /* nanoseconds; 0: something is scheduled. See await_devices */
    void (*lock)(const char *file, int line);
    void (*unlock)(void);
    void *one_insn_per_tb; /* bool since 8.1; int `singlestep` before */
    bool one_insn_is_int;
} private;

enum { RUN_STATE_PAUSED = 4 }; /* qapi/run-state.json, the same value from 7.2 to 11.1 */

/* ---- the file ------------------------------------------------------------------------------------------------------ */

enum {
    VERSION = 4,
    PAGE = 4096,
    RING = 1 << 16,         /* entries of a CPU's ring of blocks */
    BLOCKS = 1 << 20,       /* records of blocks; the file is sparse */
    HASH = 1 << 21,         /* places in the table of blocks when it is largest */
    FIRST_HASH = 1 << 12,
    SYSTEMS = 4096,         /* records of system instructions */
    STATES = 512,           /* records of register states */
    STATE_TEXT = 2048 - 24, /* of QEMU's `info registers`, cut where it is longer */
    PER_SITE = 3,           /* times that one system instruction is noted */
    MARKS = 64,
    WRITES = 256,           /* last stores to the watched memory */
    REGISTERS = 1 << 15,    /* last instructions whose registers are kept */
    CODE = 1 << 25,         /* bytes of the code of blocks */
    CHAPTERS = 16,          /* copies of the counts of all blocks, where a chapter begins */
    CHAPTER_BLOCKS = 1 << 17, /* blocks in such a copy: where there are more, none is made */
    DISCONTINUITIES_KEPT = 64,     /* last discontinuities of a CPU */
    MOST_CPUS = 256,
    STABLE_SCORES = 16,     /* CPUs for which QEMU makes room at once: their counters never move */
    LONGEST = 15,           /* bytes of an instruction */
    SYSTEM_CHANGED = 0x80,
    NEAR = 700,             /* instructions before `stop` from which blocks have one instruction */
    STOP_TURN = 20,         /* microseconds between two looks at whether the machine has stopped */
    LONGEST_STOP = 100000,  /* such looks */
};
#define NEVER UINT64_MAX
#define BEFORE (1ull << 63) /* set in the number of an instruction that ran before the entry */

struct header {
    char magic[8];
    uint32_t version, page;
    uint32_t cpus, ring, blocks, systems, states, marks;
    uint64_t cpu_offset, cpu_stride, block_offset, system_offset, state_offset, write_offset, size;
    uint32_t api, exact, finished, physical;
    _Atomic uint32_t block_count, system_count, state_count;
    uint32_t discontinuities; /* 1: this QEMU tells of them */
    _Atomic uint64_t write_count; /* stores ever noted; store i stands at i % WRITES */
    uint64_t watch, watch_size;   /* physical address and bytes */
    _Atomic uint64_t lost; /* translations that found no record left */
    uint64_t entry;        /* linear address */
    _Atomic uint64_t base; /* instructions before the entry, on the CPU that reached it; NEVER before */
    _Atomic uint32_t entry_cpu;
    _Atomic uint32_t registers_found; /* 1: QEMU's registers were found, 2: they were not; 0: nobody looked */
    uint64_t register_offset;
    _Atomic uint64_t register_count;  /* records ever written; record i stands at i % REGISTERS */
    /* the next three are written by a reader */
    _Atomic uint64_t register_until;  /* the machine stops before this instruction; 0: registers are not kept */
    _Atomic uint64_t register_taken;  /* records that were read */
    _Atomic uint64_t register_waits;  /* 1: wait for the reader rather than overwrite what it has not read */
    uint64_t code_offset;             /* of a table with a number for each block: where its code begins behind the table, plus 1; 0: none */
    _Atomic uint64_t code_used;       /* bytes */
    uint64_t chapter_offset;          /* of the beginnings of chapters; their counts follow */
    struct mark {
        uint64_t address;
        _Atomic uint64_t first, pc; /* instruction number, NEVER until it is reached; linear address */
        _Atomic uint64_t seen;      /* executions since the entry, or behind instruction `after` */
        _Atomic uint64_t last, last_pc; /* of the last execution; NEVER until then */
        _Atomic uint64_t halted; /* 1: the machine was stopped before it */
    } mark[MARKS];
};

struct discontinuity {
    uint64_t number, origin, target; /* of the next instruction; linear addresses */
    uint32_t kind, unused;     /* 1: interrupt, 2: exception, 4: host call */
};
_Static_assert(sizeof(struct discontinuity) == 32, "a discontinuity's record has 32 bytes");

/* Each entry of a ring is complete before the counter that says so; the reader leaves out the oldest one, which may be
   in the making. */
struct cpu {
    _Atomic uint64_t head;  /* ring entries ever written; entry i stands at i % RING */
    _Atomic uint64_t count; /* instructions since the entry (before it: since the start), by sums over blocks; not with exact=on */
    _Atomic uint64_t exact; /* the number of the last block's first instruction, where each one is counted */
    _Atomic uint64_t repeats; /* iterations of REP instructions that were not counted; only where each instruction is */
    _Atomic uint64_t idle;  /* head when the CPU last went idle, plus 1; 0: never */
    _Atomic uint64_t interrupted; /* discontinuities ever; number i stands at i % DISCONTINUITIES_KEPT */
    /* not for readers */
    const bool *known;  /* known_blocks; no_block: the next block is looked at */
    uint64_t attend_at; /* the number from which each block is looked at, where each instruction is counted */
    uint64_t expected;  /* the next block's number, unless the last one is cut short */
    uint64_t uncounted; /* of the counter: instructions before the entry, and those that were begun again */
    uint64_t *score;    /* this CPU's counter of instructions, where it never moves */
    uint64_t pending;   /* a system instruction ran: keep the state at the next block's start */
    uint64_t iterates;  /* head + 1 and the block of a REP instruction while it is executed again and again, where that is not counted */
    uint64_t in_repeat; /* 1: one-instruction mode is off until a REP instruction ends */
    uint64_t writes;    /* 1: the last instruction writes to a port, and devices are awaited */
    char pad[PAGE - 15 * 8 - DISCONTINUITIES_KEPT * 32];
    struct discontinuity discontinuity[DISCONTINUITIES_KEPT];
    _Atomic uint64_t ring[RING];     /* block, and above it the low 32 bits of the instruction number at its start */
    _Atomic uint64_t counts[BLOCKS]; /* how often this CPU executed each block */
};
_Static_assert(offsetof(struct cpu, ring) == PAGE, "a CPU's ring begins a page behind it");

struct block {
    uint64_t linear, physical; /* physical: QEMU's ram_addr_t, NEVER where it is not RAM */
    _Atomic uint64_t first;    /* instruction number when it was first executed, NEVER until then */
    uint16_t instructions, size, cpu;
    uint16_t last; /* offset of the last instruction */
    uint32_t before[4]; /* the blocks that this CPU executed before the first execution, the latest one first; plus 1, 0 for none */
};
_Static_assert(sizeof(struct block) == 48, "a block's record has 48 bytes");

struct system {
    uint64_t number, pc, after; /* after: register state by index plus 1, 0 for none */
    uint16_t cpu;
    uint8_t code[15];
    _Atomic uint8_t size; /* of the code; written last: 0 in a record that is not complete */
    uint8_t unused[22];
};
_Static_assert(sizeof(struct system) == 64, "a system instruction's record has 64 bytes");

struct state {
    uint64_t number, pc;
    uint32_t cpu;
    _Atomic uint32_t length; /* of the text; written last: 0 in a record that is not complete */
    char text[STATE_TEXT];
};
_Static_assert(sizeof(struct state) == 2048, "a state's record has 2048 bytes");

struct write {
    uint64_t number, pc, address; /* of the instruction; address: physical, where the store begins */
    uint16_t cpu, size;
    _Atomic uint32_t serial; /* low bits of its place in the order, plus 1; written last: 0 while the record changes */
};
_Static_assert(sizeof(struct write) == 32, "a store's record has 32 bytes");

/* The registers before an instruction that is a block of its own. */
struct registers {
    uint64_t number, pc;  /* of the instruction; linear */
    uint32_t block, flags; /* its block; EFLAGS, computed */
    uint8_t code[LONGEST], size; /* of code; with SYSTEM_CHANGED: EFER or the part from `es` on differs from the record before */
    uint64_t efer;
    uint64_t general[16];  /* rax rcx rdx rbx rsp rbp rsi rdi r8 to r15 */
    uint8_t rest[336];     /* CPUX86State from eip to cr[4]: eip eflags cc_dst cc_src cc_src2 cc_op df hflags hflags2, es cs ss ds fs gs
                              ldt tr gdt idt (selector, base, limit, flags), cr0 to cr4 */
};
_Static_assert(sizeof(struct registers) == 512, "a record of registers has 512 bytes");

/* How often all CPUs together had executed each block when a chapter began. */
struct chapter {
    uint64_t number, pc; /* of its first instruction */
    _Atomic uint32_t blocks; /* in its table of counts; written last: 0 in a record that is not complete */
    uint32_t unused[3];
};
_Static_assert(sizeof(struct chapter) == 32, "a chapter's record has 32 bytes");

static struct header *header;
static struct cpu *cpus;
static struct block *blocks;
static struct system *systems;
static struct state *states;
static struct write *writes;
static struct registers *kept;
static _Atomic uint32_t *code_of_block;
static uint8_t *code_area;
static bool keeps_code;
static struct chapter *chapters;
static uint64_t (*chapter_counts)[CHAPTER_BLOCKS];
static bool keeps_chapters;
static uint64_t chapter_places[CHAPTERS];
static unsigned chapter_place_count;
static bool counts_runs = true; /* of blocks */
/* Which blocks need no look when they are executed: those that were executed before and have no flags. A byte each, which the host's
   caches hold. A CPU whose next block is looked at in any case has the other table. */
static bool known_blocks[BLOCKS];
static const bool no_block[BLOCKS];
static uint8_t (*codes)[LONGEST + 1]; /* of blocks of one instruction: its bytes, and how many */
static uint32_t *hash, hash_size = FIRST_HASH; /* small at first: the host's caches hold it */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool exact;
static uint64_t stop_at = NEVER, entry_address = NEVER;
static uint64_t watch = NEVER, watch_size = 1;
static uint64_t marks[MARKS];
static bool mark_halts[MARKS];
static unsigned mark_count;
static uint64_t mark_times = 1, mark_after = NEVER;
static bool stop_by_clock, is_near, by_clock;
static int api_version;
static unsigned cpu_count;
static uint64_t counter_of_all; /* API 1: one counter for all CPUs */
static bool counts_by_calls;    /* instead of by inline adds */
static _Atomic uint64_t called[MOST_CPUS];
static plugin_u64 counter;

/* ---- the flow: every executed block -------------------------------------------------------------------------------- */

/* A CPU's file of all blocks that it executed. The next block is predicted from the last four; only where that fails is something
   written: how many predictions were right before, and the block, as two numbers of 7 bits a byte, the low ones first. After
   FLOW_CHUNK blocks the prediction starts anew, so that a reader can begin there. */
enum { FLOW_VERSION = 1, FLOW_CHUNK = 1 << 19, FLOW_CHUNKS = 1 << 15, FLOW_TABLE = 1 << 16, FLOW_ROOM = 1 << 28, FLOW_LONGEST = 20 };

struct flow_head {
    char magic[8];
    uint32_t version, cpu;
    uint64_t chunk, room;         /* blocks of a chunk; bytes that the stream can have */
    _Atomic uint64_t bytes, run;  /* of the stream; right predictions behind it */
    _Atomic uint64_t chunks, full; /* begun; 1: the stream ended because it is full */
    struct flow_chunk {
        uint64_t offset, number; /* of the first byte; of the first instruction */
    } start[FLOW_CHUNKS];
    uint8_t stream[];
};

struct flow {
    struct flow_head *head;
    uint32_t *table; /* the block that followed such a history, plus 1; NULL where nothing is recorded */
    uint32_t history, left;
};
static struct flow *flows;

static void put(struct flow_head *head, uint64_t *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        head->stream[(*at)++] = (uint8_t)(value | 0x80);
    }
    head->stream[(*at)++] = (uint8_t)value;
}

static __attribute__((noinline)) bool flow_chunk(struct flow *flow, uint64_t number)
{
    struct flow_head *head = flow->head;
    uint64_t bytes = atomic_load(&head->bytes), chunk = atomic_load(&head->chunks);
    if (chunk >= FLOW_CHUNKS || bytes + FLOW_CHUNK * (uint64_t)FLOW_LONGEST / 4 > FLOW_ROOM) {
        atomic_store(&head->full, 1);
        flow->table = NULL;
        return false;
    }
    memset(flow->table, 0, sizeof *flow->table * FLOW_TABLE);
    flow->history = 0;
    flow->left = FLOW_CHUNK;
    head->start[chunk] = (struct flow_chunk){.offset = bytes, .number = number};
    atomic_store_explicit(&head->chunks, chunk + 1, memory_order_release);
    return true;
}

static __attribute__((noinline)) void flow_miss(struct flow *flow, uint32_t *slot, uint32_t id, bool hit)
{
    struct flow_head *head = flow->head;
    uint64_t at = atomic_load(&head->bytes);
    put(head, &at, atomic_load(&head->run));
    if (!hit) {
        put(head, &at, id);
        *slot = id + 1;
    }
    atomic_store_explicit(&head->run, 0, memory_order_relaxed);
    atomic_store_explicit(&head->bytes, at, memory_order_release);
}

static inline __attribute__((always_inline)) void flow_note(struct flow *flow, uint32_t id, uint64_t number)
{
    if (RARE(!flow->left) && (!flow->table || !flow_chunk(flow, number))) {
        return;
    }
    uint32_t *slot = &flow->table[flow->history];
    flow->history = (flow->history << 4 ^ id) % FLOW_TABLE;
    bool hit = *slot == id + 1;
    if (hit) {
        atomic_store_explicit(&flow->head->run, atomic_load_explicit(&flow->head->run, memory_order_relaxed) + 1, memory_order_relaxed);
    }
    flow->left--;
    if (RARE(!hit || !flow->left)) {
        flow_miss(flow, slot, id, hit);
    }
}

static bool make_flows(const char *path, unsigned count)
{
    flows = calloc(count, sizeof *flows);
    for (unsigned i = 0; flows && i < count; i++) {
        char name[4096];
        int length = snprintf(name, sizeof name, "%s.flow%u", path, i);
        if (length < 0 || (size_t)length >= sizeof name) {
            return false;
        }
        size_t size = sizeof(struct flow_head) + FLOW_ROOM;
        int file = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (file < 0 || ftruncate(file, (off_t)size)) {
            return false;
        }
        struct flow_head *head = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        flows[i].table = calloc(FLOW_TABLE, sizeof *flows[i].table);
        if (head == MAP_FAILED || !flows[i].table) {
            return false;
        }
        flows[i].head = head;
        head->version = FLOW_VERSION;
        head->cpu = i;
        head->chunk = FLOW_CHUNK;
        head->room = FLOW_ROOM;
        memcpy(head->magic, "PVHDBGFL", sizeof head->magic);
    }
    return flows != NULL;
}

/* ---- counting ------------------------------------------------------------------------------------------------------ */

static uint64_t relaxed(_Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void keep(_Atomic uint64_t *value, uint64_t now)
{
    atomic_store_explicit(value, now, memory_order_relaxed);
}

static struct cpu *cpu_of(unsigned index)
{
    return RARE(index) && index < cpu_count ? &cpus[index] : cpus;
}

/* An instruction's number in the unit of stop=N. */
static uint64_t stop_number(struct cpu *cpu, uint64_t number)
{
    return stop_by_clock ? number + relaxed(&cpu->repeats) : number;
}

/* Instructions that this CPU has begun since QEMU started. */
static uint64_t raw(struct cpu *cpu, unsigned index)
{
    if (counts_by_calls) {
        cpu->score = (uint64_t *)&called[index < MOST_CPUS ? index : 0];
    } else if (api_version < 2) {
        cpu->score = &counter_of_all;
    } else if (cpu_count > STABLE_SCORES) {
        return __atomic_load_n((uint64_t *)api.scoreboard_find(counter.score, index), __ATOMIC_RELAXED);
    } else if (!cpu->score) {
        cpu->score = api.scoreboard_find(counter.score, index);
    }
    return __atomic_load_n(cpu->score, __ATOMIC_RELAXED);
}

static uint64_t before_entry(void)
{
    return entry_address != NEVER && relaxed(&header->base) == NEVER ? BEFORE : 0;
}

/* The number of the instruction that is about to run on this CPU. */
static uint64_t number_of(struct cpu *cpu, unsigned index)
{
    return (exact ? raw(cpu, index) - cpu->uncounted : relaxed(&cpu->count)) | before_entry();
}

static void single(bool on)
{
    if (private.one_insn_is_int) {
        *(int *)private.one_insn_per_tb = on;
    } else {
        *(bool *)private.one_insn_per_tb = on;
    }
}

static bool is_single(void)
{
    void *at = private.one_insn_per_tb;
    return at && (private.one_insn_is_int ? *(int *)at != 0 : *(bool *)at);
}

static void *known_cpu(unsigned index)
{
    return private.get_cpu ? private.get_cpu((int)index) : NULL;
}

/* Whether a CPU has work, under -icount. When none has, QEMU puts the clock forward to the next timer. It takes a CPU that was stopped by a
   debugger (breakpoint, step, request) for one without work, until its main thread has paused the machine, and the guest's next
   interrupt came too early after each stop. It never puts the clock forward while its own tests may do that: so they may, but for the time from
   a `hlt` to the next block. */
static void has_work(bool now)
{
    if (private.qtest_allowed) {
        *private.qtest_allowed = now;
    }
}

/* A device does some of its work in QEMU's main thread: an IDE disk is reset there. When that thread gets to it is up to the host, and a guest that
   waits for the device (SeaBIOS does) executes more or fewer instructions meanwhile. So under -icount what is scheduled there is awaited behind
   each write to a port. The main thread does it, and frees what it has done, under QEMU's lock: without that lock the list must not be read. */
static void await_devices(void)
{
    void *context = private.main_context();
    for (unsigned i = 0; i < LONGEST_STOP; i++) {
        private.lock(__FILE__, __LINE__);
        bool scheduled = private.waits_for(context) == 0;
        private.unlock();
        if (!scheduled) {
            break;
        }
        usleep(STOP_TURN);
    }
}

static void is_not_hurried(struct notifier *notifier, void *data)
{
    (void)notifier;
    (void)data;
}

/* Under -icount one thread runs all CPUs in turn. When QEMU frees memory that this thread may still read (its RCU), another thread makes it
   leave the current CPU, and the next one has its turn: at a moment of the host's clock, so that two boots of several CPUs differ. The
   thread leaves each CPU soon without that, because slices of time are short. So what is notified is taken out of its list, by a
   notifier of our own in front of it. Call it in that thread. */
static void keep_turns(void)
{
    static struct notifier own = {.notify = is_not_hurried};
    static bool kept;
    if (!kept && private.add_rcu_notifier && cpu_count > 1) {
        private.add_rcu_notifier(&own);
        own.next = NULL;
    }
    kept = true;
}

/* Stops the machine behind the current instruction; or before it, where the caller leaves the block. QEMU's main thread carries that out:
   meanwhile this CPU waits, since under -icount other CPUs would have their turn. */
static void stop_machine(void)
{
    private.vm_stop(RUN_STATE_PAUSED);
    for (unsigned i = 0; by_clock && private.is_running && private.is_running() && i < LONGEST_STOP; i++) {
        usleep(STOP_TURN);
    }
}

/* Near `stop`, blocks have one instruction. The current block, which has not begun, is left, and begins again as such a block. */
static void come_near(unsigned index, struct cpu *cpu, uintptr_t from)
{
    uint64_t number = number_of(cpu, index);
    if (stop_at == NEVER || is_near || number & BEFORE || index != atomic_load(&header->entry_cpu) ||
        stop_number(cpu, number) + NEAR < stop_at) {
        return;
    }
    is_near = true;
    single(true);
    cpu->expected = number;
    private.leave_block(known_cpu(index), from);
}

static void may_stop(unsigned index, struct cpu *cpu, uint64_t number)
{
    if (is_near && stop_at != NEVER && index == atomic_load(&header->entry_cpu) && stop_number(cpu, number) + 1 >= stop_at) {
        stop_at = NEVER;
        single(false);
        stop_machine();
    }
}

/* ---- register states ----------------------------------------------------------------------------------------------- */

/* The index plus 1 of a new record of this CPU's registers; 0 where there is none. Call it at a block's start only: inside
   a block, QEMU holds some registers in host registers only. */
static uint64_t keep_state(unsigned index, uint64_t number, uint64_t pc)
{
    void *cpu = known_cpu(index);
    if (!cpu || !private.dump_state) {
        return 0;
    }
    uint32_t at = atomic_fetch_add(&header->state_count, 1);
    if (at >= STATES) {
        atomic_store(&header->state_count, STATES);
        return 0;
    }
    struct state *state = &states[at];
    state->number = number;
    state->pc = pc;
    state->cpu = index;
    FILE *out = fmemopen(state->text, sizeof state->text, "w");
    if (out) {
        setvbuf(out, NULL, _IOFBF, sizeof state->text);
        private.dump_state(cpu, out, 0);
        fflush(out);
        long length = ftell(out);
        fclose(out);
        atomic_store_explicit(&state->length, length < 0 ? 0 : (uint32_t)length, memory_order_release);
    }
    return at + 1;
}

/* Where QEMU keeps the registers of the CPU that reached the entry: its CPUX86State, and in there the offset of eip and the place of EFER.
   No header says where: the values that it prints are searched for in the CPU's object, and all have to match. */
static struct {
    uint8_t *env, *end, *efer;
    size_t eip;
} found_registers;

static bool printed(const char *text, const char *name, uint64_t *value)
{
    const char *at = strstr(text, name);
    if (!at) {
        return false;
    }
    *value = strtoull(at + strlen(name), NULL, 16);
    return true;
}

static uint64_t word_at(const uint8_t *place)
{
    uint64_t value;
    memcpy(&value, place, sizeof value);
    return value;
}

/* CPUX86State behind eip: bytes from there to the fields that are needed here. */
enum { REST_FLAGS = 8, REST_CC_OP = 40, REST_DF = 44, REST_HFLAGS = 48, REST_ES = 56, REST_CS_BASE = 88, REST_CR0 = 296, DF = 0x400, CS64 = 1 << 15 };

static void find_efer(const char *text)
{
    uint64_t efer = 0;
    if (!printed(text, "EFER=", &efer) || !efer) {
        return;
    }
    uint8_t *begin = found_registers.env + found_registers.eip + sizeof kept->rest, *only = NULL;
    for (uint8_t *at = begin; at + 8 <= found_registers.end && at < begin + 2048; at += 8) {
        if (word_at(at) == efer) {
            if (only) {
                return;
            }
            only = at;
        }
    }
    found_registers.efer = only;
}

static uint32_t all_flags(void)
{
    const uint8_t *rest = found_registers.env + found_registers.eip;
    int32_t op, df;
    memcpy(&op, rest + REST_CC_OP, sizeof op);
    memcpy(&df, rest + REST_DF, sizeof df);
    return (uint32_t)word_at(rest + REST_FLAGS) | private.arithmetic_flags(found_registers.env, op) | ((uint32_t)df & DF);
}

/* The linear address of the next instruction. QEMU 9 and newer run a translation at other addresses than its block has. */
static uint64_t linear_pc(void)
{
    const uint8_t *rest = found_registers.env + found_registers.eip;
    return (uint32_t)word_at(rest + REST_HFLAGS) & CS64 ? word_at(rest) : (uint32_t)(word_at(rest) + word_at(rest + REST_CS_BASE));
}

static bool find_registers(unsigned index)
{
    static const char *const names[] = {"AX=", "CX=", "DX=", "BX=", "SP=", "BP=", "SI=", "DI="};
    char text[STATE_TEXT * 2] = {0};
    uint64_t wanted[8], eip, flags, cr0;
    uint8_t *cpu = known_cpu(index);
    FILE *out = cpu && private.dump_state && private.arithmetic_flags ? fmemopen(text, sizeof text - 1, "w") : NULL;
    if (!out) {
        return false;
    }
    private.dump_state(cpu, out, 0);
    fclose(out);
    for (size_t i = 0; i < 8; i++) {
        if (!printed(text, names[i], &wanted[i])) {
            return false;
        }
    }
    if (!printed(text, "IP=", &eip) || !printed(text, "FL=", &flags) || !printed(text, "CR0=", &cr0)) {
        return false;
    }
    uint8_t *end = cpu + malloc_usable_size(cpu);
    for (uint8_t *at = cpu; at + 256 + sizeof kept->rest <= end; at += 8) {
        if (memcmp(at, wanted, sizeof wanted)) {
            continue;
        }
        for (size_t general = 128; general <= 256; general += 128) { /* QEMU 11 has 32 general registers */
            found_registers.env = at;
            found_registers.eip = general;
            found_registers.end = end;
            if (word_at(at + general) == eip && word_at(at + general + REST_CR0) == cr0 && all_flags() == (uint32_t)flags) {
                find_efer(text);
                return true;
            }
        }
    }
    return false;
}

/* Keeps the registers before instruction `number`, which is about to run in a block of its own: also where a reader that lags behind asked
   for a stop before an earlier one, since the machine stops behind this block. */
static void keep_registers(unsigned index, uint64_t number, uint32_t id)
{
    uint64_t until = atomic_load(&header->register_until);
    if (!until) {
        return;
    }
    uint32_t found = atomic_load(&header->registers_found);
    if (!found) {
        found = find_registers(index) ? 1 : 2;
        atomic_store(&header->registers_found, found);
    }
    uint64_t at = relaxed(&header->register_count);
    if (found == 1) {
        while (atomic_load(&header->register_waits) && at - atomic_load(&header->register_taken) >= REGISTERS) {
            usleep(50);
        }
        struct registers *one = &kept[at % REGISTERS];
        one->number = number;
        one->pc = linear_pc();
        one->block = id;
        one->flags = all_flags();
        memcpy(one->code, codes[id], LONGEST);
        one->efer = found_registers.efer ? word_at(found_registers.efer) : 0;
        memcpy(one->general, found_registers.env, sizeof one->general);
        memcpy(one->rest, found_registers.env + found_registers.eip, sizeof one->rest);
        const struct registers *before = &kept[(at - 1) % REGISTERS];
        bool same = at && one->efer == before->efer && !memcmp(one->rest + REST_ES, before->rest + REST_ES, sizeof one->rest - REST_ES);
        one->size = codes[id][LONGEST] | (same ? 0 : SYSTEM_CHANGED);
        atomic_store_explicit(&header->register_count, at + 1, memory_order_release);
    }
    if (number + 1 >= until && private.vm_stop) {
        atomic_store(&header->register_until, 0);
        single(false);
        stop_machine();
    }
}

/* ---- callbacks at run time ----------------------------------------------------------------------------------------- */

/* What a block's callback gets instead of a pointer, so that it touches as little memory as possible: the number of the
   block's record, its instructions, and whether it is to be looked at each time. */
enum { ID_BITS = 20, COUNT_BITS = 16, REPEATS = 1, IS_ENTRY = 2 };
_Static_assert(BLOCKS <= 1 << ID_BITS, "a block's number has ID_BITS");

static void *packed(const struct block *block, unsigned flags)
{
    uint64_t value = (uint64_t)(block - blocks) | (uint64_t)block->instructions << ID_BITS | (uint64_t)flags << (ID_BITS + COUNT_BITS);
    return (void *)(uintptr_t)value;
}

#define INLINE static inline __attribute__((always_inline))
#define HERE ((uintptr_t)__builtin_return_address(0)) /* in a callback: where QEMU's generated code called it */

/* The block in such a value, and in an entry of the ring. */
INLINE uint32_t id_of(uint64_t value)
{
    return value & ((1u << ID_BITS) - 1);
}

static const struct block *last_block(struct cpu *cpu)
{
    uint64_t head = relaxed(&cpu->head);
    return head ? &blocks[id_of(relaxed(&cpu->ring[(head - 1) % RING]))] : NULL;
}

static void look_again(struct cpu *cpu)
{
    bool counts = stop_at != NEVER && !before_entry();
    uint64_t behind = NEAR + stop_number(cpu, 0); /* stop_at may come so much earlier */
    bool always = cpu->writes || cpu->pending || cpu->in_repeat || (exact && cpu_count > STABLE_SCORES);
    cpu->known = always ? no_block : known_blocks;
    cpu->attend_at = counts ? (stop_at > behind ? stop_at - behind : 0) : NEVER;
}

static void reached_entry(unsigned index, struct cpu *cpu)
{
    if (relaxed(&header->base) != NEVER) {
        return;
    }
    uint64_t all = number_of(cpu, index) & ~BEFORE;
    cpu->uncounted = exact ? raw(cpu, index) : 0;
    cpu->expected = 0;
    keep(&cpu->repeats, 0);
    keep(&cpu->count, 0);
    cpu->pending = 1;
    atomic_store(&header->entry_cpu, index);
    atomic_store_explicit(&header->base, all, memory_order_release);
}

/* ---- chapters ------------------------------------------------------------------------------------------------------ */

/* Those of `chapter_places` come first, then those of the option ROMs that began last. */
enum { MOST_PLACES = 8, OPTION_ROM = MOST_PLACES, OPTION_ROMS = 4, ENTRY = OPTION_ROM + OPTION_ROMS, LONG_MODE, PROGRAM };
_Static_assert((int)PROGRAM < CHAPTERS, "there is a record for each chapter");
/* Linear addresses. Option ROMs begin at multiples of ROM; programs of Linux lie below its own code. */
enum { ROMS = 0xc0000, ROMS_END = 0xe0000, ROM = 2048, PROGRAMS = 1 << 20 };
#define PROGRAMS_END (1ull << 47)
#define PROGRAMS_END_32 0xc0000000ull

/* Keeps the counts of all blocks before instruction `number`, the first one of a chapter. Call it with `lock`. */
static void begins_chapter(unsigned which, uint64_t number, uint64_t pc)
{
    struct chapter *chapter = &chapters[which];
    uint32_t used = atomic_load(&header->block_count);
    if (used > CHAPTER_BLOCKS) {
        return;
    }
    atomic_store(&chapter->blocks, 0);
    chapter->number = number;
    chapter->pc = pc;
    for (uint32_t id = 0; id < used; id++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < cpu_count; i++) {
            sum += relaxed(&cpus[i].counts[id]);
        }
        chapter_counts[which][id] = sum;
    }
    atomic_store_explicit(&chapter->blocks, used, memory_order_release);
}

static bool has_begun(unsigned which)
{
    return atomic_load(&chapters[which].blocks);
}

/* A block is executed first: whether a chapter begins with it. Which option ROM handed over to the kernel is known later. */
static void may_begin_chapter(const struct block *block, uint64_t number, bool is_entry)
{
    static uint64_t roms;
    static unsigned rom_count;
    uint64_t rom = block->linear - ROMS < ROMS_END - ROMS ? 1ull << (block->linear - ROMS) / ROM : 0;
    uint64_t programs_end = has_begun(LONG_MODE) ? PROGRAMS_END : PROGRAMS_END_32;
    bool started = false; /* one of chapter_places was reached: firmware and start-up code are behind */
    if (number & BEFORE) {
        if (rom & ~roms) {
            roms |= rom;
            begins_chapter(OPTION_ROM + rom_count++ % OPTION_ROMS, number, block->linear);
        }
        return;
    }
    for (unsigned i = 0; i < chapter_place_count; i++) {
        bool is_there = chapter_places[i] == block->linear || chapter_places[i] == block->physical;
        started = started || has_begun(i);
        if (is_there && !has_begun(i)) {
            begins_chapter(i, number, block->linear);
            return;
        }
    }
    if (is_entry && !has_begun(ENTRY)) {
        begins_chapter(ENTRY, number, block->linear);
    } else if (started && !has_begun(PROGRAM) && block->linear - PROGRAMS < programs_end - PROGRAMS) {
        begins_chapter(PROGRAM, number, block->linear);
    }
}

/* The state before instruction `number` was kept: whether it is the first one in 64-bit code. */
static void may_begin_long_mode(const struct state *state, uint64_t number)
{
    if (!has_begun(LONG_MODE) && !(number & BEFORE) && memmem(state->text, atomic_load(&state->length), "CS64", 4)) {
        pthread_mutex_lock(&lock);
        begins_chapter(LONG_MODE, number, state->pc);
        pthread_mutex_unlock(&lock);
    }
}

/* Whether a block of one string instruction with REP is the next iteration of the last one: QEMU executes such an instruction again for each
   iteration, in a block of its own (7.2, and each version under -icount). Nothing ran in between: it is the same instruction. */
INLINE bool is_iteration(struct cpu *cpu, const struct block *block)
{
    const struct block *last = last_block(cpu);
    return last && last->linear + last->size == block->linear + block->size;
}

/* The same; the iteration is counted as one. */
INLINE bool goes_on(struct cpu *cpu, const struct block *block)
{
    if (!is_iteration(cpu, block)) {
        return false;
    }
    if (exact) {
        cpu->uncounted++;
        keep(&cpu->repeats, relaxed(&cpu->repeats) + 1);
    }
    return true;
}

/* In one-instruction mode QEMU takes some twenty times as long for an iteration, and a kernel clears its memory by hundreds of thousands of
   them. None of them is recorded, so the mode is off until the instruction ends. */
static void leave_single(unsigned index, struct cpu *cpu)
{
    if (!cpu->in_repeat && stop_at == NEVER && atomic_load(&header->register_until) && index == atomic_load(&header->entry_cpu) && private.leave_block &&
        is_single()) {
        cpu->in_repeat = 1;
        look_again(cpu);
        single(false);
    }
}

/* Whether the block that is about to run has to be left, since one-instruction mode is on again from it on. */
static __attribute__((noinline)) bool enters_single(struct cpu *cpu, uint64_t value)
{
    if (value >> (ID_BITS + COUNT_BITS) & REPEATS && is_iteration(cpu, &blocks[id_of(value)])) {
        return false;
    }
    cpu->in_repeat = 0;
    look_again(cpu);
    if (!atomic_load(&header->register_until)) {
        return false; /* nobody asks for registers any more */
    }
    single(true);
    return true;
}

/* The rare cases of a block: its first execution, a REP instruction, the entry, a state to keep, a stop nearby. Returns the number
   of its first instruction; NEVER where QEMU executes the CPU's last instruction again, which is then not counted. */
static __attribute__((noinline)) uint64_t attend(unsigned index, struct cpu *cpu, struct block *block, unsigned flags, uintptr_t from)
{
    has_work(true);
    keep_turns();
    if (cpu->writes) {
        await_devices();
        cpu->writes = 0;
    }
    if (flags & IS_ENTRY) {
        reached_entry(index, cpu);
    }
    come_near(index, cpu, from);
    if ((flags & REPEATS) && goes_on(cpu, block)) {
        if (stop_by_clock) {
            may_stop(index, cpu, number_of(cpu, index));
            look_again(cpu);
        }
        return NEVER;
    }
    uint64_t number = number_of(cpu, index);
    known_blocks[block - blocks] = !flags;
    if (RARE(relaxed(&block->first) == NEVER)) {
        pthread_mutex_lock(&lock);
        if (relaxed(&block->first) == NEVER) {
            uint64_t head = relaxed(&cpu->head);
            for (uint64_t i = 0; i < sizeof block->before / sizeof *block->before && i < head; i++) {
                block->before[i] = id_of(relaxed(&cpu->ring[(head - 1 - i) % RING])) + 1;
            }
            block->cpu = (uint16_t)index;
            atomic_store_explicit(&block->first, number, memory_order_release);
            if (keeps_chapters) {
                may_begin_chapter(block, number, flags & IS_ENTRY);
            }
        }
        pthread_mutex_unlock(&lock);
    }
    if (cpu->pending) {
        uint64_t state = keep_state(index, number, block->linear);
        if (cpu->pending > 1) {
            systems[cpu->pending - 2].after = state;
        }
        if (state && keeps_chapters && index == atomic_load(&header->entry_cpu)) {
            may_begin_long_mode(&states[state - 1], number);
        }
        if (state && found_registers.env && !found_registers.efer) {
            find_efer(states[state - 1].text);
        }
        cpu->pending = 0;
    }
    may_stop(index, cpu, number);
    look_again(cpu);
    return number;
}

/* The last block was cut short. A block that begins inside of it begins an instruction again: QEMU left that one before it
   did anything (access to a device under -icount, a store into the block's own code). But QEMU 7.2 also tells of a last
   instruction that crosses a page, and then puts it into the next block: that one has not begun before. Otherwise a fault was
   delivered. */
static __attribute__((noinline)) void cut_short(struct cpu *cpu, const struct block *block, uint64_t number)
{
    const struct block *last = last_block(cpu);
    if (last && number < cpu->expected && block->linear - last->linear < last->size &&
        !(number + 1 == cpu->expected && block->linear == last->linear + last->last)) {
        cpu->uncounted++;
    }
}

/* What is kept of a block that begins with instruction `number`. */
INLINE void note(struct cpu *cpu, uint32_t id, uint64_t instructions, uint64_t number, bool exactly, bool flowing, bool counting)
{
    uint64_t head = relaxed(&cpu->head);
    if (counting) {
        keep(&cpu->counts[id], relaxed(&cpu->counts[id]) + 1);
    }
    keep(&cpu->ring[head % RING], id | number << 32);
    if (exactly) {
        cpu->expected = number + instructions;
        keep(&cpu->exact, number);
    } else {
        keep(&cpu->count, number + instructions);
    }
    atomic_store_explicit(&cpu->head, head + 1, memory_order_release);
    if (flowing) {
        flow_note(&flows[cpu - cpus], id, number | before_entry());
    }
}

/* The number of the block's first instruction; NEVER where it is not counted. */
static __attribute__((noinline)) uint64_t runs_rarely(unsigned index, struct cpu *cpu, uint64_t value, uintptr_t from)
{
    struct block *block = &blocks[id_of(value)];
    if ((value >> (ID_BITS + COUNT_BITS)) == REPEATS && stop_at == NEVER && goes_on(cpu, block)) { /* millions of them clear memory */
        leave_single(index, cpu);
        return NEVER;
    }
    if (exact && raw(cpu, index) - cpu->uncounted != cpu->expected) {
        cut_short(cpu, block, raw(cpu, index) - cpu->uncounted);
    }
    uint64_t number = attend(index, cpu, block, (unsigned)(value >> (ID_BITS + COUNT_BITS)), from);
    if (number != NEVER) {
        note(cpu, id_of(value), block->instructions, number & ~BEFORE, exact, flows != NULL, counts_runs);
    }
    return number;
}

/* The same of a block whose callback was called by the code at `from`. It may be left: then this does not return. */
static __attribute__((noinline)) void runs_rarely_from(unsigned index, struct cpu *cpu, uint64_t value, uintptr_t from)
{
    uint64_t now = (relaxed(&cpu->head) + 1) << ID_BITS | id_of(value);
    if (cpu->iterates == now) {
        return;
    }
    if (value >> (ID_BITS + COUNT_BITS) == REPEATS && !exact && is_iteration(cpu, &blocks[id_of(value)])) {
        cpu->iterates = now;
        return;
    }
    if (RARE(cpu->in_repeat) && enters_single(cpu, value)) {
        private.leave_block(known_cpu(index), from);
    }
    runs_rarely(index, cpu, value, from);
}

/* This runs for each block of the guest: it touches three lines of memory, and no register has to be saved. */
INLINE void runs(unsigned index, void *userdata, bool exactly, bool flowing, bool counting)
{
    uint64_t value = (uintptr_t)userdata;
    struct cpu *cpu = cpu_of(index);
    uint64_t number = exactly ? (cpu->score ? *cpu->score : 0) - cpu->uncounted : relaxed(&cpu->count);
    bool rare = !cpu->known[id_of(value)];
    if (RARE(rare || (exactly && (number != cpu->expected || number >= cpu->attend_at)))) {
        runs_rarely_from(index, cpu, value, HERE);
    } else { /* the block is known, so it has no flags above its instructions */
        note(cpu, id_of(value), value >> ID_BITS, number, exactly, flowing, counting);
    }
}

#define CALLBACK(name, exactly, flowing, counting)    \
    static void name(unsigned index, void *userdata)  \
    {                                                 \
        runs(index, userdata, exactly, flowing, counting); \
    }
CALLBACK(block_runs, false, false, true)
CALLBACK(block_runs_uncounted, false, false, false)
CALLBACK(block_runs_exactly, true, false, true)
CALLBACK(block_runs_flowing, false, true, true)
CALLBACK(block_runs_exactly_flowing, true, true, true)

/* A block of one instruction, in QEMU's mode for that. */
static void instruction_runs(unsigned index, void *userdata)
{
    uint64_t value = (uintptr_t)userdata;
    uint64_t number = runs_rarely(index, cpu_of(index), value, HERE);
    if (number < BEFORE && index == atomic_load(&header->entry_cpu)) {
        keep_registers(index, number, id_of(value));
    }
}

/* A block that has no record: counted, and nothing else. */
static void lost_block_runs(unsigned index, void *userdata)
{
    struct cpu *cpu = cpu_of(index);
    if (exact) {
        cpu->expected = raw(cpu, index) - cpu->uncounted + (uintptr_t)userdata;
    } else {
        keep(&cpu->count, relaxed(&cpu->count) + (uintptr_t)userdata);
    }
}

static void is_interrupted(unsigned index, int kind, uint64_t from, uint64_t to)
{
    struct cpu *cpu = cpu_of(index);
    uint64_t at = relaxed(&cpu->interrupted);
    struct discontinuity *one = &cpu->discontinuity[at % DISCONTINUITIES_KEPT];
    one->number = number_of(cpu, index);
    one->origin = from;
    one->target = to;
    one->kind = (uint32_t)kind;
    atomic_store_explicit(&cpu->interrupted, at + 1, memory_order_release);
}

static void is_interrupted_before_7(plugin_id id, unsigned index, int kind, uint64_t from, uint64_t to)
{
    (void)id;
    is_interrupted(index, kind, from, to);
}

static void is_interrupted_since_7(unsigned index, int kind, uint64_t from, uint64_t to, void *userdata)
{
    (void)userdata;
    is_interrupted(index, kind, from, to);
}

struct site { /* an instruction with a callback of its own */
    uint64_t pc;
    int mark;
    uint8_t size, code[15];
    uint8_t noted[]; /* how often, for each CPU */
};

static void mark_runs(unsigned index, void *userdata)
{
    struct site *site = userdata;
    struct mark *mark = &header->mark[site->mark];
    struct cpu *cpu = cpu_of(index);
    if (relaxed(&header->base) == NEVER) {
        return;
    }
    uint64_t number = number_of(cpu, index);
    if (number == relaxed(&mark->last)) {
        return; /* the next iteration of a REP */
    }
    keep(&mark->last_pc, site->pc);
    keep(&mark->last, number);
    if (mark_after != NEVER && number <= mark_after) {
        return;
    }
    if (atomic_fetch_add(&mark->seen, 1) + 1 == mark_times) {
        keep(&mark->pc, site->pc);
        atomic_store_explicit(&mark->first, number, memory_order_release);
        if (mark_halts[site->mark] && private.vm_stop) {
            keep(&mark->halted, 1);
            stop_machine();
            if (private.leave_block) { /* else the machine stops behind this block */
                cpu->expected = number & ~BEFORE;
                const struct block *last = last_block(cpu);
                if (last && last->linear == site->pc) { /* the block that begins here will begin again */
                    if (counts_runs) {
                        keep(&cpu->counts[last - blocks], relaxed(&cpu->counts[last - blocks]) - 1);
                    }
                    keep(&cpu->count, exact ? 0 : number - last->instructions);
                    keep(&cpu->head, relaxed(&cpu->head) - 1);
                }
                private.leave_block(known_cpu(index), HERE);
            }
        }
    }
}

/* A write to a port comes: the next block is looked at. */
static void writes_port(unsigned index, void *userdata)
{
    (void)userdata;
    struct cpu *cpu = cpu_of(index);
    cpu->writes = 1;
    look_again(cpu);
}

/* `hlt` or `mwait` comes: the next block of any CPU is looked at. */
static void rests(unsigned index, void *userdata)
{
    (void)index;
    (void)userdata;
    has_work(false);
    for (unsigned i = 0; i < cpu_count; i++) {
        cpus[i].known = no_block;
    }
}

static void system_runs(unsigned index, void *userdata)
{
    struct site *site = userdata;
    struct cpu *cpu = cpu_of(index);
    uint8_t *noted = &site->noted[index < cpu_count ? index : 0];
    if (*noted >= PER_SITE || relaxed(&header->base) == NEVER) {
        return;
    }
    ++*noted;
    uint32_t at = atomic_load(&header->system_count);
    do {
        if (at >= SYSTEMS) {
            return;
        }
    } while (!atomic_compare_exchange_weak(&header->system_count, &at, at + 1));
    struct system *system = &systems[at];
    system->pc = site->pc;
    system->cpu = (uint16_t)index;
    memcpy(system->code, site->code, sizeof system->code);
    system->number = number_of(cpu, index);
    atomic_store_explicit(&system->size, site->size, memory_order_release);
    cpu->pending = at + 2;
    look_again(cpu);
}

/* A store by the instruction at the linear address `userdata`. QEMU 7.2 delivers loads too when only stores are requested, so both
   are requested, and distinguished here. */
static void accesses(unsigned index, uint32_t info, uint64_t linear, void *userdata)
{
    uint64_t size = 1ull << api.mem_size_shift(info);
    /* the cheap test first: pages map bytes in order, so only a store of these low bits can be one */
    if (((watch - linear) & (PAGE - 1)) >= size && ((linear - watch) & (PAGE - 1)) >= watch_size) {
        return;
    }
    if (!api.mem_is_store(info)) {
        return;
    }
    const void *where = api.get_hwaddr(info, linear);
    if (!where || api.hwaddr_is_io(where)) {
        return;
    }
    uint64_t physical = api.hwaddr_phys(where);
    if (physical >= watch + watch_size || physical + size <= watch) {
        return;
    }
    struct cpu *cpu = cpu_of(index);
    uint64_t at = atomic_fetch_add(&header->write_count, 1);
    struct write *write = &writes[at % WRITES];
    atomic_store(&write->serial, 0);
    write->number = number_of(cpu, index) - 1; /* it has been counted already */
    write->pc = (uint64_t)(uintptr_t)userdata;
    write->address = physical;
    write->cpu = (uint16_t)index;
    write->size = (uint16_t)size;
    atomic_store_explicit(&write->serial, (uint32_t)at + 1, memory_order_release);
}

/* ---- translation --------------------------------------------------------------------------------------------------- */

static size_t code_of(const struct qemu_plugin_insn *insn, uint8_t *code, size_t room)
{
    size_t size = api.insn_size(insn);
    size = size < room ? size : room;
    if (api_version >= 3) {
        return api.insn_data_copy(insn, code, size);
    }
    memcpy(code, api.insn_data_pointer(insn), size);
    return size;
}

/* The first byte of the opcode, after prefixes. REX (0x40 to 0x4f) is a prefix in 64-bit code and inc or dec elsewhere; what
   follows is then not a system instruction by itself, and a wrong guess costs one callback. */
static const uint8_t *opcode_of(const uint8_t *code, size_t size, bool *repeated, bool *locked)
{
    const uint8_t *end = code + size;
    while (code < end) {
        if (*code == 0xf2 || *code == 0xf3) {
            *repeated = true;
        } else if (*code == 0xf0) {
            *locked = true;
        } else if (*code != 0x66 && *code != 0x67 && *code != 0x2e && *code != 0x36 && *code != 0x3e && *code != 0x26 &&
                   *code != 0x64 && *code != 0x65 && (*code & 0xf0) != 0x40) {
            break;
        }
        code++;
    }
    return code;
}

static bool is_string(uint8_t opcode)
{
    return (opcode >= 0xa4 && opcode <= 0xa7) || (opcode >= 0xaa && opcode <= 0xaf) || (opcode >= 0x6c && opcode <= 0x6f);
}

/* Whether an instruction may change the CPU's mode or tables: moves to CR0 to CR4, wrmsr, lgdt, lidt, lmsw, loads of segment
   registers, far jumps, calls and returns, iret. */
static bool is_system(const uint8_t *opcode, size_t size)
{
    if (size < 1) {
        return false;
    }
    switch (opcode[0]) {
    case 0x8e: case 0xea: case 0xca: case 0xcb: case 0xcf: case 0x9a:
        return true;
    case 0xff:
        return size > 1 && (opcode[1] >> 3 & 7) >= 3 && (opcode[1] >> 3 & 7) <= 5 && opcode[1] < 0xc0 && (opcode[1] >> 3 & 7) != 4;
    case 0x0f:
        if (size < 2) {
            return false;
        }
        if (opcode[1] == 0x01) {
            unsigned reg = size > 2 ? opcode[2] >> 3 & 7 : 0;
            return reg == 6 || ((reg == 2 || reg == 3) && opcode[2] < 0xc0);
        }
        return opcode[1] == 0x22 || opcode[1] == 0x30 || opcode[1] == 0x00;
    default:
        return false;
    }
}

/* Whether an instruction always runs to its end: arithmetic and moves between registers. Any other may raise a fault, or make QEMU
   leave its block. Where this is not known, the answer is no. */
static bool runs_to_its_end(const uint8_t *opcode, size_t size)
{
    if (size < 1) {
        return false;
    }
    bool long_form = opcode[0] == 0x0f;
    if (size < (long_form ? 3 : 2)) {
        return (opcode[0] & 0xf8) == 0x90 || opcode[0] == 0x98 || opcode[0] == 0x99 || /* xchg, nop, cltq, cqto */
               (long_form && size > 1 && (opcode[1] & 0xf8) == 0xc8); /* bswap */
    }
    unsigned operands = opcode[long_form ? 2 : 1], reg = operands >> 3 & 7;
    bool registers = operands >= 0xc0;
    if (long_form) {
        uint8_t code = opcode[1];
        return code == 0x1f || code == 0x1e || /* nop, endbr64 */
               (registers && (code >> 4 == 0x4 || code >> 4 == 0x9 || code == 0xaf || code == 0xb6 || code == 0xb7 || code == 0xbe ||
                              code == 0xbf)); /* cmovcc, setcc, imul, movzx, movsx */
    }
    switch (opcode[0]) {
    case 0x80: case 0x81: case 0x83: /* arithmetic with a constant */
    case 0x84: case 0x85: case 0x86: case 0x87: case 0x88: case 0x89: case 0x8a: case 0x8b: /* test, xchg, mov */
    case 0x69: case 0x6b: /* imul */
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: /* shifts */
        return registers;
    case 0xc6: case 0xc7: /* mov of a constant */
        return registers && reg == 0;
    case 0xf6: case 0xf7: /* test, not, neg, mul; not div */
        return registers && reg < 6;
    case 0xfe: case 0xff: /* inc, dec */
        return registers && reg < 2;
    case 0x8d: /* lea */
        return !registers;
    case 0xa8: case 0xa9: /* test of a constant */
        return true;
    default:
        if (opcode[0] < 0x40 && (opcode[0] & 7) < 6) { /* arithmetic */
            return (opcode[0] & 7) > 3 || registers;
        }
        return (opcode[0] & 0xf0) == 0xb0; /* mov of a constant */
    }
}

static uint64_t physical_of(void *host)
{
    return host && private.ram_addr_from_host ? private.ram_addr_from_host(host) : NEVER;
}

static uint64_t key_of(uint64_t linear, uint64_t physical, size_t instructions, size_t size)
{
    uint64_t key = (linear ^ physical * 0x9e3779b97f4a7c15u) + instructions * 0x632be59bd9b4e019u + size;
    key ^= key >> 29;
    key *= 0xbf58476d1ce4e5b9u;
    return key ^ key >> 32;
}

/* Doubles the table, which has `used` blocks. */
static void grow_hash(uint32_t used)
{
    memset(hash, 0, sizeof *hash * hash_size);
    hash_size *= 2;
    for (uint32_t id = 0; id < used; id++) {
        const struct block *block = &blocks[id];
        uint64_t at = key_of(block->linear, block->physical, block->instructions, block->size);
        while (hash[at % hash_size]) {
            at++;
        }
        hash[at % hash_size] = id + 1;
    }
}

static struct block *record_of(uint64_t linear, uint64_t physical, size_t instructions, size_t size, size_t last)
{
    uint64_t key = key_of(linear, physical, instructions, size);
    for (size_t probe = 0; probe < hash_size; probe++) {
        uint32_t *slot = &hash[(key + probe) % hash_size];
        if (*slot) {
            struct block *block = &blocks[*slot - 1];
            if (block->linear == linear && block->physical == physical && block->instructions == instructions &&
                block->size == size) {
                return block; /* translated again, after a flush of the code cache */
            }
            continue;
        }
        uint32_t at = atomic_load(&header->block_count);
        if (at >= BLOCKS) {
            return NULL;
        }
        struct block *block = &blocks[at];
        block->linear = linear;
        block->physical = physical;
        keep(&block->first, NEVER);
        block->instructions = (uint16_t)instructions;
        block->size = (uint16_t)size;
        block->last = (uint16_t)last;
        *slot = at + 1;
        if ((at + 1) * 2 > hash_size && hash_size < HASH) {
            grow_hash(at + 1);
        }
        atomic_store_explicit(&header->block_count, at + 1, memory_order_release);
        return block;
    }
    return NULL;
}

struct looked { /* at an instruction */
    bool repeats, runs_on; /* a string instruction with a REP prefix; one that always runs to its end */
    struct site *site;     /* what its own callbacks get, NULL without any */
    bool system, rests, port;
};

static struct looked look_at(struct qemu_plugin_insn *insn)
{
    uint8_t code[15] = {0};
    size_t size = code_of(insn, code, sizeof code);
    uint64_t linear = api.insn_vaddr(insn);
    bool repeated = false, locked = false;
    const uint8_t *opcode = opcode_of(code, size, &repeated, &locked);
    size_t left = size - (size_t)(opcode - code);
    struct looked found = {
        .repeats = repeated && left && is_string(opcode[0]),
        .runs_on = !repeated && !locked && runs_to_its_end(opcode, left),
        .system = is_system(opcode, left),
        .port = left && ((opcode[0] & 0xfe) == 0xe6 || (opcode[0] & 0xfe) == 0xee || (opcode[0] & 0xfc) == 0x6c), /* out, ins, outs */
        .rests = left && (opcode[0] == 0xf4 || (left > 2 && opcode[0] == 0x0f && opcode[1] == 0x01 && (opcode[2] == 0xc9 || opcode[2] == 0xfb))),
    };
    int mark = -1;
    if (mark_count) {
        uint64_t physical = NEVER;
        for (unsigned i = 0; i < mark_count; i++) {
            if ((marks[i] ^ linear) % PAGE) {
                continue; /* pages map bytes in order */
            }
            physical = physical == NEVER ? physical_of(api.insn_haddr(insn)) : physical;
            if (marks[i] == linear || marks[i] == physical) {
                mark = (int)i;
            }
        }
    }
    if (!found.system && mark < 0) {
        return found;
    }
    struct site *site = calloc(1, sizeof *site + cpu_count); /* lives as long as the translation may run: to the end */
    if (!site) {
        return found;
    }
    site->pc = linear;
    site->mark = mark;
    site->size = (uint8_t)size;
    memcpy(site->code, code, sizeof site->code);
    found.site = site;
    return found;
}

static void begins(unsigned index, void *instructions)
{
    _Atomic uint64_t *count = &called[index < MOST_CPUS ? index : 0];
    keep(count, relaxed(count) + (uintptr_t)instructions);
}

/* Counts `instructions` when this one is begun, behind its callbacks. QEMU before 9.0 has one inline counter for all CPUs, and QEMU 10 and
   11 crash in those of several CPUs under -icount: there calls count, which takes longer. */
static void count_at(struct qemu_plugin_insn *insn, uint64_t instructions)
{
    if (counts_by_calls) {
        api.register_insn_exec(insn, (void *)begins, CB_NO_REGS, (void *)(uintptr_t)instructions);
    } else if (api_version < 2) {
        api.register_insn_inline(insn, INLINE_ADD_U64, &counter_of_all, instructions);
    } else {
        api.register_insn_inline_per_vcpu(insn, INLINE_ADD_U64, counter, instructions);
    }
}

/* The code of a block. One that is translated again has the code that lies there now. */
static void keep_code(uint32_t id, const uint8_t *code, size_t size)
{
    uint32_t place = atomic_load(&code_of_block[id]);
    if (!place) {
        uint64_t at = atomic_load(&header->code_used);
        if (at + size > CODE) {
            return;
        }
        atomic_store(&header->code_used, at + size);
        place = (uint32_t)at + 1;
    }
    memcpy(code_area + place - 1, code, size);
    atomic_store_explicit(&code_of_block[id], place, memory_order_release);
}

static void translated(struct qemu_plugin_tb *tb)
{
    size_t n = api.tb_n_insns(tb), size = 0, last = 0;
    uint8_t code[PAGE];
    bool whole = keeps_code; /* in `code` */
    struct looked found = {0};
    struct qemu_plugin_insn *first = NULL, *before = NULL;
    uint64_t uncounted = 0; /* instructions before this one that are not counted yet */
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = api.tb_get_insn(tb, i);
        first = first ? first : insn;
        last = size;
        whole = whole && size + LONGEST <= sizeof code && code_of(insn, code + size, LONGEST) == api.insn_size(insn);
        size += api.insn_size(insn);
        found = look_at(insn);
        bool callbacks = found.site || watch != NEVER; /* that ask for the number */
        bool may_be_left_out = i + 1 == n && PAGE - api.insn_vaddr(insn) % PAGE < LONGEST; /* see cut_short */
        if (exact && uncounted && (callbacks || may_be_left_out)) {
            count_at(before, uncounted);
            uncounted = 0;
        }
        if (watch != NEVER) {
            api.register_mem(insn, (void *)accesses, CB_NO_REGS, MEM_READ_WRITE, (void *)(uintptr_t)api.insn_vaddr(insn));
        }
        if (found.site && found.site->mark >= 0) {
            api.register_insn_exec(insn, (void *)mark_runs, CB_NO_REGS, found.site);
        }
        if (found.site && found.system) {
            api.register_insn_exec(insn, (void *)system_runs, CB_NO_REGS, found.site);
        }
        if (found.rests && private.qtest_allowed) {
            api.register_insn_exec(insn, (void *)rests, CB_NO_REGS, NULL);
        }
        if (found.port && private.waits_for) {
            api.register_insn_exec(insn, (void *)writes_port, CB_NO_REGS, NULL);
        }
        uncounted++;
        if (exact && (!found.runs_on || i + 1 == n)) { /* the block may be left here: all that have begun are counted */
            count_at(insn, uncounted);
            uncounted = 0;
        }
        before = insn;
    }
    if (!first) {
        return;
    }
    pthread_mutex_lock(&lock);
    struct block *block = record_of(api.insn_vaddr(first), physical_of(api.insn_haddr(first)), n, size, last);
    if (block && whole) {
        keep_code((uint32_t)(block - blocks), code, size);
    }
    pthread_mutex_unlock(&lock);
    if (block) {
        unsigned flags = (found.repeats && n == 1 ? REPEATS : 0) | (block->linear == entry_address ? IS_ENTRY : 0);
        if (flags) { /* other code may have been there before */
            known_blocks[block - blocks] = false;
        }
        static const struct {
            void (*run[2])(unsigned, void *);
        } callbacks[2] = {{{block_runs, block_runs_flowing}}, {{block_runs_exactly, block_runs_exactly_flowing}}};
        void *run = (void *)(counts_runs ? callbacks[exact].run[flows != NULL] : block_runs_uncounted);
        if (n == 1 && is_single()) {
            uint8_t *own = codes[block - blocks];
            own[LONGEST] = (uint8_t)code_of(first, own, LONGEST);
            run = (void *)instruction_runs;
        }
        api.register_tb_exec(tb, run, CB_NO_REGS, packed(block, flags));
    } else {
        atomic_fetch_add(&header->lost, 1);
        api.register_tb_exec(tb, (void *)lost_block_runs, CB_NO_REGS, (void *)(uintptr_t)n);
    }
}

/* API 7 gives each callback its userdata and no id; before, the id came first. */
static void translated_before_7(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    translated(tb);
}

static void translated_since_7(struct qemu_plugin_tb *tb, void *userdata)
{
    (void)userdata;
    translated(tb);
}

static void idles(unsigned index)
{
    struct cpu *cpu = cpu_of(index);
    keep(&cpu->idle, relaxed(&cpu->head) + 1);
}

static void idles_before_7(plugin_id id, unsigned index)
{
    (void)id;
    idles(index);
}

static void idles_since_7(unsigned index, void *userdata)
{
    (void)userdata;
    idles(index);
}

/* The registers of each CPU when QEMU ends: a dead CPU still has those of its death. Not called on SIGKILL. */
static void ends(void)
{
    for (unsigned index = 0; index < cpu_count; index++) {
        struct cpu *cpu = &cpus[index];
        if (relaxed(&cpu->head)) {
            keep_state(index, number_of(cpu, index), NEVER);
        }
    }
    header->finished = 1;
}

static void ends_before_7(plugin_id id, void *userdata)
{
    (void)id;
    (void)userdata;
    ends();
}

static void ends_since_7(void *userdata)
{
    (void)userdata;
    ends();
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

EXPORT int qemu_plugin_version = 1;

/* QEMU opens the library first and reads qemu_plugin_version afterwards, and no version is accepted by all releases. What this
   QEMU exports tells which one it wants: scoreboards came with 9.0; its callbacks lost the id with 11.0. */
__attribute__((constructor)) static void choose_version(void)
{
    struct {
        int64_t major;
    } *version = NULL;
    struct info { /* struct VersionInfo of qapi/misc.json: a pointer to three int64_t, and a string */
        void *qemu;
        char *package;
    } *(*query)(void *) = (struct info * (*)(void *))dlsym(RTLD_DEFAULT, "qmp_query_version");
    if (query) {
        struct info *info = query(NULL); /* not freed: it is small, and QEMU may use another allocator */
        version = info ? info->qemu : NULL;
    }
    if (version && version->major >= 11) {
        qemu_plugin_version = 7;
    } else if (dlsym(RTLD_DEFAULT, "qemu_plugin_scoreboard_new")) {
        qemu_plugin_version = 2;
    }
}

static bool fail(const char *what)
{
    fprintf(stderr, "pvhdbg recorder: %s\n", what);
    return false;
}

/* The function of QEMU 9 and newer, or that of before. */
static void *either(const char *name, const char *before)
{
    void *found = dlsym(RTLD_DEFAULT, name);
    return found ? found : dlsym(RTLD_DEFAULT, before);
}

static bool find_api(void)
{
    static const struct {
        const char *name;
        void **where;
        int since, until; /* versions of the API */
    } wanted[] = {
        {"qemu_plugin_register_vcpu_tb_trans_cb", (void **)&api.register_tb_trans, 0, 99},
        {"qemu_plugin_register_vcpu_idle_cb", (void **)&api.register_vcpu_idle, 0, 99},
        {"qemu_plugin_register_atexit_cb", (void **)&api.register_atexit, 0, 99},
        {"qemu_plugin_register_vcpu_discon_cb", (void **)&api.register_discontinuity, 6, 99},
        {"qemu_plugin_register_vcpu_tb_exec_cb", (void **)&api.register_tb_exec, 0, 99},
        {"qemu_plugin_register_vcpu_insn_exec_cb", (void **)&api.register_insn_exec, 0, 99},
        {"qemu_plugin_register_vcpu_mem_cb", (void **)&api.register_mem, 0, 99},
        {"qemu_plugin_mem_is_store", (void **)&api.mem_is_store, 0, 99},
        {"qemu_plugin_mem_size_shift", (void **)&api.mem_size_shift, 0, 99},
        {"qemu_plugin_get_hwaddr", (void **)&api.get_hwaddr, 0, 99},
        {"qemu_plugin_hwaddr_is_io", (void **)&api.hwaddr_is_io, 0, 99},
        {"qemu_plugin_hwaddr_phys_addr", (void **)&api.hwaddr_phys, 0, 99},
        {"qemu_plugin_register_vcpu_insn_exec_inline", (void **)&api.register_insn_inline, 0, 1},
        {"qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu", (void **)&api.register_insn_inline_per_vcpu, 2, 99},
        {"qemu_plugin_scoreboard_new", (void **)&api.scoreboard_new, 2, 99},
        {"qemu_plugin_scoreboard_find", (void **)&api.scoreboard_find, 2, 99},
        {"qemu_plugin_tb_n_insns", (void **)&api.tb_n_insns, 0, 99},
        {"qemu_plugin_tb_get_insn", (void **)&api.tb_get_insn, 0, 99},
        {"qemu_plugin_insn_data", (void **)&api.insn_data_pointer, 0, 2},
        {"qemu_plugin_insn_data", (void **)&api.insn_data_copy, 3, 99},
        {"qemu_plugin_insn_size", (void **)&api.insn_size, 0, 99},
        {"qemu_plugin_insn_vaddr", (void **)&api.insn_vaddr, 0, 99},
        {"qemu_plugin_insn_haddr", (void **)&api.insn_haddr, 0, 99},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (api_version < wanted[i].since || api_version > wanted[i].until) {
            continue;
        }
        *wanted[i].where = dlsym(RTLD_DEFAULT, wanted[i].name);
        if (!*wanted[i].where) {
            fprintf(stderr, "pvhdbg recorder: this QEMU lacks %s\n", wanted[i].name);
            return false;
        }
    }
    *(void **)&private.get_cpu = dlsym(RTLD_DEFAULT, "qemu_get_cpu");
    *(void **)&private.dump_state = dlsym(RTLD_DEFAULT, "cpu_dump_state");
    *(void **)&private.ram_addr_from_host = dlsym(RTLD_DEFAULT, "qemu_ram_addr_from_host");
    *(void **)&private.leave_block = dlsym(RTLD_DEFAULT, "cpu_loop_exit_restore");
    *(void **)&private.vm_stop = dlsym(RTLD_DEFAULT, "vm_stop");
    *(void **)&private.is_running = dlsym(RTLD_DEFAULT, "runstate_is_running");
    *(void **)&private.arithmetic_flags = dlsym(RTLD_DEFAULT, "cpu_cc_compute_all");
    private.qtest_allowed = by_clock ? dlsym(RTLD_DEFAULT, "qtest_allowed") : NULL;
    *(void **)&private.add_rcu_notifier = by_clock ? dlsym(RTLD_DEFAULT, "rcu_add_force_rcu_notifier") : NULL;
    *(void **)&private.main_context = dlsym(RTLD_DEFAULT, "qemu_get_aio_context");
    *(void **)&private.lock = either("bql_lock_impl", "qemu_mutex_lock_iothread_impl");
    *(void **)&private.unlock = either("bql_unlock", "qemu_mutex_unlock_iothread");
    bool can_wait = by_clock && private.main_context && private.lock && private.unlock;
    *(void **)&private.waits_for = can_wait ? dlsym(RTLD_DEFAULT, "aio_compute_timeout") : NULL;
    private.one_insn_per_tb = dlsym(RTLD_DEFAULT, "one_insn_per_tb");
    if (!private.one_insn_per_tb) {
        private.one_insn_per_tb = dlsym(RTLD_DEFAULT, "singlestep");
        private.one_insn_is_int = true;
    }
    if (stop_at != NEVER && !(private.get_cpu && private.leave_block && private.vm_stop && private.one_insn_per_tb)) {
        return fail("this QEMU exports nothing that stops it at an instruction");
    }
    return true;
}

static bool make_file(const char *path, unsigned count)
{
    uint64_t stride = sizeof(struct cpu);
    cpu_count = count;
    uint64_t at_blocks = PAGE + count * stride;
    uint64_t at_systems = at_blocks + sizeof(struct block) * (uint64_t)BLOCKS;
    uint64_t at_states = at_systems + sizeof(struct system) * (uint64_t)SYSTEMS;
    uint64_t at_writes = at_states + sizeof(struct state) * (uint64_t)STATES;
    uint64_t at_registers = at_writes + sizeof(struct write) * (uint64_t)WRITES;
    uint64_t at_code = at_registers + sizeof(struct registers) * (uint64_t)REGISTERS;
    uint64_t at_chapters = at_code + sizeof *code_of_block * (uint64_t)BLOCKS + CODE;
    uint64_t size = at_chapters + PAGE + sizeof *chapter_counts * (uint64_t)CHAPTERS;
    _Static_assert(sizeof(struct header) <= PAGE, "the header has one page");
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0 || ftruncate(file, (off_t)size)) {
        perror("pvhdbg recorder: the recording cannot be made");
        return false;
    }
    char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    hash = mmap(NULL, sizeof(uint32_t) * HASH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    codes = mmap(NULL, sizeof *codes * BLOCKS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || hash == MAP_FAILED || codes == MAP_FAILED) {
        return fail("the recording cannot be mapped");
    }
    header = (struct header *)map;
    cpus = (struct cpu *)(map + PAGE);
    blocks = (struct block *)(map + at_blocks);
    systems = (struct system *)(map + at_systems);
    states = (struct state *)(map + at_states);
    writes = (struct write *)(map + at_writes);
    kept = (struct registers *)(map + at_registers);
    code_of_block = (_Atomic uint32_t *)(map + at_code);
    code_area = (uint8_t *)(map + at_code) + sizeof *code_of_block * (uint64_t)BLOCKS;
    chapters = (struct chapter *)(map + at_chapters);
    chapter_counts = (uint64_t (*)[CHAPTER_BLOCKS])(map + at_chapters + PAGE);
    *header = (struct header){
        .version = VERSION, .page = PAGE, .cpus = count, .ring = RING, .blocks = BLOCKS, .systems = SYSTEMS, .states = STATES,
        .marks = mark_count, .cpu_offset = PAGE, .cpu_stride = stride, .block_offset = at_blocks, .system_offset = at_systems,
        .state_offset = at_states, .write_offset = at_writes, .size = size, .watch = watch, .watch_size = watch_size,
        .api = (uint32_t)api_version, .exact = exact, .physical = private.ram_addr_from_host != NULL,
        .discontinuities = api.register_discontinuity != NULL, .entry = entry_address, .base = NEVER,
        .register_offset = at_registers, .code_offset = at_code,
        .chapter_offset = at_chapters,
    };
    for (unsigned i = 0; i < count; i++) {
        look_again(&cpus[i]);
    }
    for (unsigned i = 0; i < mark_count; i++) {
        header->mark[i].address = marks[i];
        keep(&header->mark[i].first, NEVER);
        keep(&header->mark[i].last, NEVER);
    }
    memcpy(header->magic, "PVHDBGFR", sizeof header->magic); /* last: a reader that sees it sees the rest */
    return true;
}

static bool number(const char *text, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 0);
    return *text && !*end;
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int argc, char **argv)
{
    const char *path = NULL;
    bool flowing = false;
    api_version = info->version.cur; /* what QEMU's functions are, whatever older version it still accepts */
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        size_t length = value ? (size_t)(value - argv[i]) : 0;
        uint64_t parsed = 0;
        bool numeric = value && number(value + 1, &parsed);
        if (length == 2 && !memcmp(argv[i], "to", 2)) {
            path = value + 1;
        } else if (length == 5 && !memcmp(argv[i], "exact", 5)) {
            exact = !strcmp(value + 1, "on");
        } else if (length == 5 && !memcmp(argv[i], "entry", 5) && numeric) {
            entry_address = parsed;
        } else if (length == 4 && !memcmp(argv[i], "flow", 4)) {
            flowing = !strcmp(value + 1, "on");
        } else if (length == 4 && !memcmp(argv[i], "stop", 4) && numeric) {
            stop_at = parsed;
            exact = true;
        } else if (length == 5 && !memcmp(argv[i], "watch", 5) && numeric) {
            watch = parsed;
            exact = true;
        } else if (length == 10 && !memcmp(argv[i], "watch_size", 10) && numeric && parsed && parsed <= PAGE) {
            watch_size = parsed;
        } else if (length == 5 && !memcmp(argv[i], "times", 5) && numeric && parsed) {
            mark_times = parsed;
        } else if (length == 5 && !memcmp(argv[i], "after", 5) && numeric) {
            mark_after = parsed;
        } else if (length == 4 && !memcmp(argv[i], "code", 4)) {
            keeps_code = !strcmp(value + 1, "on");
        } else if (length == 8 && !memcmp(argv[i], "chapters", 8)) {
            keeps_chapters = !strcmp(value + 1, "on");
        } else if (length == 7 && !memcmp(argv[i], "chapter", 7) && numeric && chapter_place_count < MOST_PLACES) {
            chapter_places[chapter_place_count++] = parsed;
        } else if (length == 6 && !memcmp(argv[i], "counts", 6)) {
            counts_runs = strcmp(value + 1, "off");
        } else if (length == 5 && !memcmp(argv[i], "calls", 5)) {
            counts_by_calls = !strcmp(value + 1, "on");
        } else if (length == 6 && !memcmp(argv[i], "icount", 6)) {
            by_clock = !strcmp(value + 1, "on");
        } else if (length == 5 && !memcmp(argv[i], "clock", 5)) {
            stop_by_clock = !strcmp(value + 1, "on");
        } else if (length == 4 && (!memcmp(argv[i], "mark", 4) || !memcmp(argv[i], "halt", 4)) && numeric && mark_count < MARKS) {
            mark_halts[mark_count] = *argv[i] == 'h';
            marks[mark_count++] = parsed;
        } else {
            fprintf(stderr, "pvhdbg recorder: %s is not an argument\n", argv[i]);
            return 1;
        }
    }
    counts_runs = counts_runs || exact || flowing || keeps_chapters;
    if (!path) {
        fail("to=PATH is missing");
        return 1;
    }
    if (!info->system_emulation || (strcmp(info->target_name, "x86_64") && strcmp(info->target_name, "i386"))) {
        fail("only full-system x86 emulation can be recorded");
        return 1;
    }
    unsigned count = info->system.max_vcpus > 0 ? (unsigned)info->system.max_vcpus : 1;
    count = count < MOST_CPUS ? count : MOST_CPUS;
    counts_by_calls = counts_by_calls || (api_version < 2 && count > 1);
    if (!find_api() || !make_file(path, count)) {
        return 1;
    }
    if (flowing && !make_flows(path, count)) {
        fail("the flow cannot be recorded");
        return 1;
    }
    if (exact && api_version >= 2 && !counts_by_calls) {
        counter.score = api.scoreboard_new(sizeof(uint64_t));
    }
    bool since_7 = api_version >= 7;
    api.register_tb_trans(id, since_7 ? (void *)translated_since_7 : (void *)translated_before_7, NULL);
    api.register_vcpu_idle(id, since_7 ? (void *)idles_since_7 : (void *)idles_before_7, NULL);
    if (api.register_discontinuity) {
        api.register_discontinuity(id, DISCONTINUITIES,
                                   since_7 ? (void *)is_interrupted_since_7 : (void *)is_interrupted_before_7, NULL);
    }
    api.register_atexit(id, since_7 ? (void *)ends_since_7 : (void *)ends_before_7, NULL);
    return 0;
}
