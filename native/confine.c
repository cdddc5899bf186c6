/* The last steps before anything of a guest's can run: capabilities, no_new_privs, Landlock, seccomp. Applied once
 * to the spawner and inherited by every exec: a filter per exec costs 100-700 us, and a Landlock domain per exec
 * would keep one exec from signalling another. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

void drop_capabilities(uint64_t keep, const char *who)
{
#ifdef ALCOVE_OFF_CAPS
    (void)keep;
    (void)who;
#else
    for (int cap = 0; cap < 64; cap++)
        if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
            fail("capabilities", who); /* EINVAL: past the last one this kernel knows */
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)keep, .permitted = (uint32_t)keep},
        {.effective = (uint32_t)(keep >> 32), .permitted = (uint32_t)(keep >> 32)},
    };
    CHECK((int)syscall(SYS_capset, &header, data), "capabilities", who);
#endif
}

#ifndef ALCOVE_OFF_LANDLOCK
static void add_rule(int ruleset, const struct op *op)
{
    int fd = open(op->s0, O_PATH | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return; /* nothing there to grant; the rest of the set must still hold */
    CHECK(fd, "landlock", op->s0);
    struct sys_landlock_path_beneath_attr attr = {.allowed_access = op->v0, .parent_fd = fd};
    CHECK(sys_landlock_add_rule(ruleset, SYS_LANDLOCK_RULE_PATH_BENEATH, &attr, 0), "landlock", op->s0);
    close(fd);
}

static void landlock(const struct plan *plan)
{
    struct op op;
    if (!plan_find(plan, OP_LANDLOCK, &op))
        return;
    struct sys_landlock_ruleset_attr attr = {.handled_access_fs = op.v0, .scoped = op.v1};
    /* a kernel without scopes refuses a longer structure, so its size says what is asked for */
    size_t size = op.v1 ? sizeof attr : sizeof attr.handled_access_fs;
    int ruleset = sys_landlock_create_ruleset(&attr, size, 0);
    CHECK(ruleset, "landlock", "create_ruleset");
    struct plan_cursor cursor = plan_begin(plan);
    while (plan_next(&cursor, &op) == 1)
        if (op.kind == OP_LANDLOCK_RULE)
            add_rule(ruleset, &op);
    CHECK(sys_landlock_restrict_self(ruleset, 0), "landlock", "restrict_self");
    close(ruleset);
}
#endif

#ifndef ALCOVE_OFF_SECCOMP
static void seccomp(const struct plan *plan, uint32_t variant)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1)
        if (op.kind == OP_SECCOMP && op.n0 == variant) {
            size_t bytes = op.len0 / sizeof(struct sock_filter) * sizeof(struct sock_filter);
            static struct sock_filter filter[BPF_MAXINSNS]; /* the plan's bytes need not be aligned */
            errno = E2BIG;
            CHECK(bytes > sizeof filter ? -1 : 0, "seccomp", "program too long");
            memcpy(filter, op.s0, bytes);
            struct sock_fprog program = {(unsigned short)(bytes / sizeof *filter), filter};
            CHECK((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp", "install");
            return;
        }
    errno = EINVAL;
    fail("seccomp", "the plan has no such filter"); /* never a session without one */
}
#endif

static void no_new_privs(void)
{
#ifndef ALCOVE_OFF_NNP
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs", "cell");
#endif
}

void confine(const struct plan *plan, uint32_t seccomp_variant)
{
    struct op op;
    plan_find(plan, OP_CAPABILITIES, &op);
#ifndef ALCOVE_OFF_NNP
    drop_capabilities(op.v0, "cell");
#endif
    no_new_privs();
#ifndef ALCOVE_OFF_LANDLOCK
    landlock(plan);
#endif
#ifndef ALCOVE_OFF_SECCOMP
    seccomp(plan, seccomp_variant);
#else
    (void)seccomp_variant;
#endif
#ifdef ALCOVE_OFF_NNP /* without it, Landlock and seccomp take only a process that still has its capabilities */
    drop_capabilities(op.v0, "cell");
#endif
}
