/* Provisioning, as one straight line. Three processes come of it:
 *
 *   warden   (this one) owns the namespaces and mounts, stays outside the cell's pid namespace, runs no guest code
 *   init     PID 1 of the cell; born first, since the namespaces that it makes take the kernel longest
 *   spawner  born in the session's cgroups and before we enter anything, so that it has the caller's credentials, can
 *            make idmapped mounts for us, then enters the cell and gives everything up
 *
 * The order is namespaces, id maps, non-dumpable, mounts, pivot_root, then in the spawner capabilities, no_new_privs,
 * Landlock, seccomp. Every step that fails is reported by name with its errno, and nothing is left. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/wait.h>

int open_namespace(int host_proc, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "self/ns/%s", name);
    int fd = openat(host_proc, path, O_RDONLY | O_CLOEXEC);
    CHECK(fd, "open namespace", name);
    return fd;
}

/* Every namespace, but for those that a test build leaves out to prove that somebody notices. */
uint64_t compiled_in(void)
{
    uint64_t mask = ~0ULL;
#ifdef ALCOVE_OFF_NETNS
    mask &= ~(uint64_t)CLONE_NEWNET;
#endif
#ifdef ALCOVE_OFF_IPCNS
    mask &= ~(uint64_t)CLONE_NEWIPC;
#endif
#ifdef ALCOVE_OFF_UTSNS
    mask &= ~(uint64_t)CLONE_NEWUTS;
#endif
    return mask;
}

void write_proc(int dirfd, const char *path, const char *text, const char *step)
{
    int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
    CHECK(fd, step, path);
    CHECK((int)write(fd, text, strlen(text)), step, text);
    close(fd);
}

/* A change of credentials clears it (prctl(2)): said at birth, and again after each. */
void die_with_parent(const char *who)
{
    CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl", who);
}

static void clean_start(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* core_pattern may be a pipe of the host */
    setsid();
    umask(077);
    CHECK(chdir("/"), "chdir", "/");
    /* an anonymous session keyring: the caller's is not inherited (not namespaced, keyctl(2)); no keys, no need */
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    for (int number = 1; number < NSIG; number++)
        /* what the caller ignores (Python: SIGPIPE) would be ignored in every command; libc hides 32 and 33 from us */
        syscall(SYS_rt_sigaction, number, &(struct sys_sigaction){0}, NULL, sizeof(__u64));
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

/* ---- the spawner's birth ---- */

/* Opened with the caller's credentials, which is what the kernel checks when they are written (since Linux 5.16). */
static void open_cgroups(const struct plan *plan, struct cgroup_doors *doors)
{
    doors->unified = doors->unified_procs = -1;
#ifndef ALCOVE_OFF_CGROUP
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind == OP_CGROUP_TASKS && doors->count < MOST_HIERARCHIES) {
            CHECK(doors->tasks[doors->count++] = open(op.s0, O_WRONLY | O_CLOEXEC), "cgroup", op.s0);
        } else if (op.kind == OP_CGROUP_UNIFIED) {
            CHECK(doors->unified = open(op.s0, O_PATH | O_DIRECTORY | O_CLOEXEC), "cgroup", op.s0);
            CHECK(doors->unified_procs = openat(doors->unified, "cgroup.procs", O_WRONLY | O_CLOEXEC), "cgroup", op.s0);
            freezer_open(doors->unified);
        }
    }
#else
    (void)plan;
#endif
}

void enter_cgroups(const struct cgroup_doors *doors, int born_outside)
{
    for (int i = 0; i < doors->count; i++) /* `tasks` moves one thread without the lock that makes cgroup.procs slow */
        CHECK((int)write(doors->tasks[i], "0", 1), "cgroup", "tasks");
    if (born_outside && doors->unified_procs >= 0)
        CHECK((int)write(doors->unified_procs, "0", 1), "cgroup", "cgroup.procs");
}

static _Noreturn void spawner_main(const struct warden *warden, int socket, int orphans)
{
    title_set("alcove-spawner");
    die_with_parent("spawner");
    enter_cgroups(&warden->cgroups, 0);
    int listener = hostside_hand_over(warden->plan, socket);
    spawner_enter(warden->plan, socket, warden->host_proc, 0, -1, -1);
    CHECK(message_send(socket, "r", 1, NULL, 0), "socket", "spawner");
    spawner_serve(listener, orphans);
}

static int spawner_birth(struct warden *warden, int orphans)
{
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), "socket", "spawner");
    struct sys_clone_args args = {.exit_signal = SIGCHLD};
    if (warden->cgroups.unified >= 0) {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)warden->cgroups.unified;
    }
    warden->spawner = sys_clone3(&args);
    CHECK(warden->spawner, "clone", "spawner");
    if (warden->spawner == 0) {
        close(sockets[0]);
        spawner_main(warden, sockets[1], orphans);
    }
    close(sockets[1]);
    close(orphans);
    return sockets[0];
}

/* ---- the namespaces ---- */

/* Made with init's birth, since everybody joins them; the network's comes after it, mount and cgroup elsewhere. */
static const uint64_t OF_INIT = CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWUTS;

static void expect(int socket, char wanted, int *fd)
{
    char byte = 0;
    int count = fd ? 1 : 0;
    if (message_receive(socket, &byte, 1, fd, &count) != 1 || byte != wanted || count != (fd ? 1 : 0))
        _exit(1); /* the other side has reported why */
}

void settle_ids(const char *who)
{
    setgroups(0, NULL); /* EPERM with a single-id map */
    CHECK(setresgid(0, 0, 0), "setgid", who);
    CHECK(setresuid(0, 0, 0), "setuid", who);
#ifndef ALCOVE_OFF_NONDUMPABLE
    CHECK(prctl(PR_SET_DUMPABLE, 0), "prctl", who);
#endif
}

static void settle(const struct plan *plan)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* ours is the hard limit; a command's is in the plan */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    settle_ids("warden");
#ifndef ALCOVE_OFF_UTSNS
    struct op op;
    if (plan_find(plan, OP_HOSTNAME, &op))
        CHECK(sethostname(op.s0, op.len0), "sethostname", op.s0);
#else
    (void)plan;
#endif
}

/* ---- the cell's mounts and its init ---- */

static void write_inner_maps(const struct plan *plan, int host_proc, pid_t spawner)
{
    static const struct {
        uint32_t kind;
        const char *file;
    } maps[] = {{OP_MAP_UID, "uid_map"}, {OP_MAP_GID, "gid_map"}};
    for (int i = 0; i < 2; i++) {
        char path[64], text[1024] = "";
        size_t used = 0;
        struct plan_cursor cursor = plan_begin(plan);
        struct op op;
        while (plan_next(&cursor, &op) == 1)
            if (op.kind == maps[i].kind && used < sizeof text)
                used += (size_t)snprintf(text + used, sizeof text - used, "%u %u %llu\n", op.n0, op.n0,
                                         (unsigned long long)op.v0);
        snprintf(path, sizeof path, "%d/%s", (int)spawner, maps[i].file);
        write_proc(host_proc, path, text, "the cell's id map");
    }
}

/* The spawner enters while the mounts are built, as far as it can without them. */
static void admit_spawner(struct warden *warden, int socket)
{
    int namespaces[3] = {warden->view.cell_mountns, warden->cell_pidns, warden->cell_netns};
    CHECK(message_send(socket, "e", 1, namespaces, 3), "socket", "spawner");
}

static int open_spawner_namespace(const struct warden *warden, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%d/ns/%s", (int)warden->spawner, name);
    int fd = openat(warden->host_proc, path, O_RDONLY | O_CLOEXEC);
    CHECK(fd, "open namespace of the cell", name);
    return fd;
}

static void map_spawner(struct warden *warden, int socket)
{
    expect(socket, 'u', NULL);
#ifndef ALCOVE_OFF_CELLNS
    write_inner_maps(warden->plan, warden->host_proc, warden->spawner);
#else
    (void)write_inner_maps;
#endif
    warden->cell_userns = open_spawner_namespace(warden, "user");
    warden->cell_cgroupns = open_spawner_namespace(warden, "cgroup");
    CHECK(message_send(socket, "m", 1, NULL, 0), "socket", "spawner");
}

static void separate_mounts(struct warden *warden)
{
    struct op op;
    plan_find(warden->plan, OP_NAMESPACES, &op);
    CHECK(mount("none", "/", NULL, MS_REC | (op.n0 ? MS_SLAVE : MS_PRIVATE), NULL), "mount propagation", "/");
    warden->view.host_mountns = -1;
    if (op.n0) { /* later attaches start from the host's tree, which a plain user can only clone inside */
        warden->view.host_mountns = open_namespace(warden->host_proc, "mnt");
        CHECK(unshare(CLONE_NEWNS), "unshare", "the cell's mounts");
        CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount propagation", "/");
    }
    warden->view.cell_mountns = open_namespace(warden->host_proc, "mnt");
}

/* The mounts are the longest part, and ours. Init and spawner get ready side by side with it, the spawner all but for
 * Landlock, whose rules name what is there after pivot_root. */
static void build(struct warden *warden, struct mounts *mounts)
{
    int spawner = mounts->spawner;
    separate_mounts(warden);
    CHECK(message_send(mounts->init, "m", 1, &warden->view.cell_mountns, 1), "socket", "init");
    mounts_begin(warden->plan, mounts);
    mounts_build(warden->plan, mounts);
    warden->cell_pidns = mounts->pidns;
    warden->cell_netns = mounts->netns;
    FAULT(warden->plan, "mounted");
    /* Between now and pivot_root, / of this namespace is the new root, which the spawner finds as its own: a process
     * whose root is another than its mount namespace's may not make a user namespace (user_namespaces(7)). */
    admit_spawner(warden, spawner);
    mounts_mask(warden->plan, mounts);
    map_spawner(warden, spawner);
    mounts_pivot();
    close(mounts->root);
    FAULT(warden->plan, "pivoted");
    CHECK(message_send(spawner, "p", 1, NULL, 0), "socket", "spawner");
    mounts_leave_host(); /* while the spawner confines itself: its paths begin at the new root already */
    expect(mounts->init, 'c', NULL);
    close(mounts->init);
    expect(spawner, 'r', NULL);
    close(spawner);
}

/* ---- before the plan has come ---- */

static struct mounts mounts;
static struct warden warden;
static int orphans; /* init's reports of what it reaped, for the spawner */
static int early_error;

/* Out of the way of the plan's descriptor. */
static int high(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, FD_PLAN + 1);
    close(fd);
    return moved;
}

/* Init makes the network, the dearest of the namespaces, while the caller prepares the rest. */
static pid_t init_birth(int network)
{
    int sockets[2], reaped[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0 || pipe2(reaped, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    struct sys_clone_args args = {.flags = CLONE_NEWPID | (compiled_in() & OF_INIT), .exit_signal = SIGCHLD};
    pid_t pid = sys_clone3(&args);
    if (pid == 0) {
        close(sockets[0]);
        init_main(warden.host_proc, sockets[1], reaped[1], network && (compiled_in() & CLONE_NEWNET));
    }
    int error = errno;
    close(sockets[1]);
    close(reaped[1]);
    mounts.init = high(sockets[0]);
    orphans = high(reaped[0]);
    errno = error;
    return pid;
}

void warden_begin(int network)
{
    title_set("alcove-warden");
    clean_start();
    warden.host_proc = high(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    warden.init = init_birth(network);
    early_error = errno;
}

void warden_abandon(void)
{
    if (warden.init > 0 && kill(warden.init, SIGKILL) == 0)
        waitpid(warden.init, NULL, __WALL);
}

/* ---- provisioning ---- */

static void join_cell(uint64_t namespaces)
{
    int pidfd = sys_pidfd_open(warden.init, 0);
    CHECK(pidfd, "pidfd", "init");
    CHECK(setns(pidfd, (int)(namespaces & OF_INIT)), "setns", "the namespaces of init");
    close(pidfd);
    CHECK(unshare(CLONE_NEWNS), "unshare", "mount");
}

/* Init was born where we are, and would wait there until we do. Where it may run stays as it was. */
static void run_elsewhere(pid_t pid)
{
    enum { WORD = 8 * sizeof(unsigned long) };
    unsigned long allowed[64], others[64], any = 0;
    unsigned here = 0;
    long size = syscall(SYS_sched_getaffinity, 0, sizeof allowed, allowed);
    if (size <= 0 || syscall(SYS_getcpu, &here, NULL, NULL) < 0)
        return; /* a matter of time alone */
    memcpy(others, allowed, (size_t)size);
    others[here / WORD] &= ~(1UL << here % WORD);
    for (long i = 0; i < size / (long)sizeof *others; i++)
        any |= others[i];
    if (any && syscall(SYS_sched_setaffinity, pid, size, others) == 0)
        syscall(SYS_sched_setaffinity, pid, size, allowed);
}

void warden_main(const struct plan *plan)
{
    struct op op;
    plan_find(plan, OP_NAMESPACES, &op);
    uint64_t namespaces = op.v0 & compiled_in();
    warden.plan = plan;
    errno = early_error;
    CHECK(warden.init, "clone", "init, in namespaces of its own");
    run_elsewhere(warden.init);
    /* with the caller's own credentials, before anybody enters */
    hostside_map(plan, warden.host_proc, warden.init, namespaces);
    FAULT(plan, "mapped");
    open_cgroups(plan, &warden.cgroups);
    mounts.spawner = spawner_birth(&warden, orphans);
    hostside_mapped();
    FAULT(plan, "spawner-born");
    join_cell(namespaces);
    settle(plan);
    build(&warden, &mounts);
    warden.control = mounts.control;
    if (namespaces & CLONE_NEWNET)
        CHECK(setns(warden.cell_netns, CLONE_NEWNET), "setns", "net");
    FAULT(plan, "spawner-ready");
    report_ready(warden.init, warden.spawner);
    control_serve(&warden);
}
