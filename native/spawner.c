/* The spawner: enters the cell, confines itself for good, and from then on gives birth to one monitor per exec.
 * It stands outside the cell's pid namespace, so no guest can see or signal it. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { MOST_EXECS = 4096, LOST = -1 };

struct running {
    pid_t monitor;
    int connection;
};

static struct exec_slot *slots; /* shared with monitors and commands */
static struct running running[MOST_EXECS];
static struct op open_files, processes;
static char oom_score[16]; /* of the cell's processes; the spawner keeps the caller's, so that they go first */
static int oom_door = -1;
static int orphans = -1; /* from init, as it reaps; the end of it is init's own */
static int ending;

/* ---- entering ---- */

/* Before the cell's user namespace is made: what it may charge to the namespaces above is bounded by the limits that
 * its maker has at that moment. */
static void set_limits(const struct plan *plan)
{
#ifndef ALCOVE_OFF_RLIMITS
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1) {
        struct rlimit limit = {op.v0, op.v1};
        if (op.kind == OP_RLIMIT && op.n0 == RLIMIT_NOFILE)
            open_files = op;
        else if (op.kind == OP_RLIMIT && op.n0 == RLIMIT_NPROC)
            processes = op;
        else if (op.kind == OP_RLIMIT)
            CHECK(setrlimit(op.n0, &limit), "rlimit", "");
    }
#else
    (void)plan;
#endif
}

static void set_budgets(const struct plan *plan, int host_proc)
{
    /* this one now: above, where the warden counts too, it would be too few */
    struct rlimit limit = {processes.v0, processes.v1};
    if (processes.kind)
        CHECK(setrlimit(RLIMIT_NPROC, &limit), "rlimit", "processes");
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind == OP_USER_SYSCTL) {
            char path[128];
            snprintf(path, sizeof path, "sys/%s", op.s0);
            int fd = openat(host_proc, path, O_WRONLY | O_CLOEXEC);
            if (fd < 0 && errno == ENOENT)
                continue; /* this kernel has no such budget */
            CHECK(fd, "user sysctl", op.s0);
            CHECK((int)write(fd, op.s1, op.len1), "user sysctl", op.s0);
            close(fd);
        } else if (op.kind == OP_OOM_SCORE) {
            snprintf(oom_score, sizeof oom_score, "%u", op.n0);
            CHECK(oom_door = openat(host_proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC), "oom_score_adj", "");
        }
    }
}

/* Under /proc/sys/net a process sees its own network's. */
static void set_network(const struct plan *plan, int host_proc)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1)
        if (op.kind == OP_SYSCTL) {
            char path[128];
            snprintf(path, sizeof path, "sys/%s", op.s0);
            write_proc(host_proc, path, op.s1, "sysctl");
        }
}

static void expect(int socket, char wanted, int *fds, int count)
{
    char byte = 0;
    int got = count;
    if (message_receive(socket, &byte, 1, fds, &got) != 1 || byte != wanted || got != count)
        _exit(1); /* the warden has reported why */
}

void spawner_enter(const struct plan *plan, int warden, int host_proc, uint32_t variant, int userns, int cgroupns)
{
    int namespaces[3];
    struct op cell;
    expect(warden, 'e', namespaces, 3);
    plan_find(plan, OP_NAMESPACES, &cell);
    if (cell.v0 & compiled_in() & CLONE_NEWNET) {
        CHECK(setns(namespaces[2], CLONE_NEWNET), "setns", "net");
        if (userns < 0)
            set_network(plan, host_proc);
    }
    CHECK(setns(namespaces[0], CLONE_NEWNS), "setns", "mount");
    CHECK(setns(namespaces[1], CLONE_NEWPID), "setns", "pid");
    struct op map;
    plan_find(plan, OP_MAP_GID, &map);
    if (map.v0 > 1) /* a single-id map has setgroups denied: the caller's groups stay, as in any such sandbox */
        CHECK(setgroups(0, NULL), "setgroups", "cell");
    CHECK(setresgid(0, 0, 0), "setgid", "cell");
    CHECK(setresuid(0, 0, 0), "setuid", "cell");
    die_with_parent("spawner");
    set_limits(plan);
    if (userns >= 0) {
        CHECK(setns(userns, CLONE_NEWUSER), "setns", "user");
        CHECK(setns(cgroupns, CLONE_NEWCGROUP), "setns", "cgroup");
        CHECK(prctl(PR_SET_DUMPABLE, 1), "prctl", "spawner"); /* for our own /proc files; out of every guest's sight */
    } else {
        int inner = 0;
#ifndef ALCOVE_OFF_CGROUPNS
        inner |= CLONE_NEWCGROUP;
#endif
#ifndef ALCOVE_OFF_CELLNS
        inner |= CLONE_NEWUSER;
#endif
        CHECK(unshare(inner), "unshare", "the cell's user namespace");
        /* the change of ids made our /proc files the host root's, and the warden must write our maps; no guest yet */
        CHECK(prctl(PR_SET_DUMPABLE, 1), "prctl", "spawner");
        CHECK(message_send(warden, "u", 1, NULL, 0), "socket", "spawner");
        expect(warden, 'm', NULL, 0);
    }
    set_budgets(plan, host_proc);
    if (userns < 0)
        expect(warden, 'p', NULL, 0); /* the root file system is what it will be: Landlock's rules may name it */
    slots = mmap(NULL, MOST_EXECS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED)
        fail("mmap", "slots");
#ifndef ALCOVE_OFF_NONDUMPABLE
    /* between fork and execve our children stand in the guest's /proc */
    CHECK(prctl(PR_SET_DUMPABLE, 0), "prctl", "spawner");
#endif
    die_with_parent("spawner");
    confine(plan, variant);
}

/* ---- serving ---- */

enum door { DOOR_SIGNALS, DOOR_LISTENER, DOOR_REAPED, DOOR_LOST };

static void watch_fd(int epoll, int fd, enum door door)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)door << 32 | (uint32_t)fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        _exit(1);
}

static int free_slot(void)
{
    for (int i = 0; i < MOST_EXECS; i++)
        if (running[i].monitor == 0)
            return i;
    return -1;
}

static void refuse(int connection, int step, int error)
{
    struct exec_message message = {.outcome = EXEC_FAILED, .step = step, .error = error};
    send(connection, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(connection);
}

static void set_oom_score(const char *score)
{
    if (oom_door >= 0)
        (void)!pwrite(oom_door, score, strlen(score), 0);
}

/* Nothing is born in a pid namespace without its init: ENOMEM, as if for want of memory (pid_namespaces(7)). */
static int init_is_gone(void)
{
    struct pollfd init = {.fd = orphans, .events = 0};
    return poll(&init, 1, 0) == 1 && init.revents & POLLHUP;
}

/* The monitor is born before its request has come, so that the caller can prepare meanwhile. */
static void start(int connection)
{
    int slot = free_slot();
    if (slot < 0) {
        refuse(connection, STEP_REQUEST, EMFILE);
        return;
    }
    slots[slot] = (struct exec_slot){0};
    set_oom_score(oom_score); /* inherited at birth: the child's own file is the host root's until it has executed */
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    int error = errno;
    if (pid != 0)
        set_oom_score("0");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sys_close_range(3, (unsigned)connection - 1, 0); /* other execs' connections are none of this one's */
        sys_close_range((unsigned)connection + 1, ~0U, 0);
        exec_monitor(connection, &open_files, &slots[slot]);
    }
    if (pid > 0)
        running[slot] = (struct running){pid, connection};
    else if (error == ENOMEM && init_is_gone())
        close(connection); /* unread: its caller brings the session back, and asks again */
    else
        refuse(connection, STEP_FORK, error);
}

static void finish(struct running *exec)
{
    close(exec->connection);
    *exec = (struct running){0};
}

/* A monitor that did not exit by itself was killed by a guest. Its command now belongs to init, which will tell. */
static void monitor_lost(int epoll, int slot)
{
    if (slots[slot].command != 0) {
        running[slot].monitor = LOST;
        watch_fd(epoll, running[slot].connection, DOOR_LOST);
        return;
    }
    struct exec_message message = {.outcome = EXEC_FAILED, .step = STEP_MONITOR, .error = ECHILD};
    send(running[slot].connection, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    finish(&running[slot]);
}

static void reap_monitors(int epoll)
{
    pid_t pid;
    int status;
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
        for (int i = 0; i < MOST_EXECS; i++)
            if (running[i].monitor == pid) {
                if (WIFEXITED(status))
                    finish(&running[i]);
                else
                    monitor_lost(epoll, i);
                break;
            }
}

static int is_lost(int connection)
{
    for (int i = 0; i < MOST_EXECS; i++)
        if (running[i].monitor == LOST && running[i].connection == connection)
            return 1;
    return 0;
}

static void tell_lost(pid_t command, int status)
{
    for (int i = 0; i < MOST_EXECS; i++)
        if (running[i].monitor == LOST && slots[i].command == command) {
            struct exec_message message = {.outcome = EXEC_EXITED, .status = status};
            send(running[i].connection, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
            finish(&running[i]);
        }
}

static void read_orphans(int epoll)
{
    int32_t record[2];
    ssize_t got;
    while ((got = read(orphans, record, sizeof record)) == (ssize_t)sizeof record) {
        /* after the record, not before: a monitor is waitable before init can reap what it leaves behind */
        reap_monitors(epoll);
        tell_lost(record[0], record[1]);
    }
    if (got == 0) { /* init is dead, and the cell with it: we go too, once we have reaped our monitors */
        epoll_ctl(epoll, EPOLL_CTL_DEL, orphans, NULL);
        ending = 1;
    }
}

/* ---- the loop ---- */

static void accept_all(int listener)
{
    int connection;
    while ((connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        start(connection);
}

static void drop_signals(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) > 0)
        ;
}

static void serve(int epoll, enum door door, int fd)
{
    switch (door) {
    case DOOR_SIGNALS:
        drop_signals(fd);
        reap_monitors(epoll);
        break;
    case DOOR_LISTENER:
        accept_all(fd);
        break;
    case DOOR_REAPED:
        read_orphans(epoll);
        break;
    case DOOR_LOST:
        if (is_lost(fd)) /* and not answered since epoll_wait returned */
            _exit(1); /* a tree without a monitor is to be killed: end the cell, which kills everything */
        break;
    }
}

/* Only what serving needs stays open, on the lowest numbers. */
static void keep_only(int *listener)
{
    int *kept[3] = {listener, &orphans, &oom_door}, high[3];
    for (int i = 0; i < 3; i++)
        high[i] = *kept[i] < 0 ? -1 : fcntl(*kept[i], F_DUPFD_CLOEXEC, 100);
    sys_close_range(3, 99, 0);
    for (int i = 0; i < 3; i++)
        *kept[i] = high[i] < 0 ? -1 : fcntl(high[i], F_DUPFD_CLOEXEC, 3);
    sys_close_range(100, ~0U, 0);
}

void spawner_serve(int listener, int reaped)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    orphans = reaped;
    keep_only(&listener);
    int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK), epoll = epoll_create1(EPOLL_CLOEXEC);
    if (signals < 0 || epoll < 0)
        _exit(1);
    watch_fd(epoll, signals, DOOR_SIGNALS);
    watch_fd(epoll, listener, DOOR_LISTENER);
    if (orphans >= 0)
        watch_fd(epoll, orphans, DOOR_REAPED);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++)
            serve(epoll, (enum door)(events[i].data.u64 >> 32), (int)(uint32_t)events[i].data.u64);
        if (ending && waitpid(-1, NULL, WNOHANG | __WALL) < 0)
            _exit(0); /* no child is left */
    }
}
