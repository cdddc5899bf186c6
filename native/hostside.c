/* The caller's own credentials at work: id maps, idmapped mounts, trees below directories that the session's ids could
 * not traverse. The maps are the warden's work, before it enters; the rest runs in the process that becomes the
 * spawner, before it enters the session and long before any guest exists. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static void write_map(const struct plan *plan, int proc, pid_t pid, uint32_t kind, const char *file)
{
    char text[1024] = "", path[64];
    size_t used = 0;
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1)
        if (op.kind == kind && used < sizeof text)
            used += (size_t)snprintf(text + used, sizeof text - used, "%u %u %llu\n", op.n0, op.n1,
                                     (unsigned long long)op.v0);
    snprintf(path, sizeof path, "%d/%s", (int)pid, file);
    write_proc(proc, path, text, file);
}

static void write_maps(const struct plan *plan, int proc, pid_t init)
{
    struct op op;
    plan_find(plan, OP_MAP_GID, &op);
    if (op.v0 == 1) { /* user_namespaces(7): without CAP_SETGID outside, gid_map needs setgroups denied */
        char path[64];
        snprintf(path, sizeof path, "%d/setgroups", (int)init);
        write_proc(proc, path, "deny", "setgroups");
    }
    write_map(plan, proc, init, OP_MAP_UID, "uid_map");
    write_map(plan, proc, init, OP_MAP_GID, "gid_map");
}

/* -1 with errno. */
static int map_owner(pid_t pid, const char *file, uint32_t on_disk, uint32_t inside)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    snprintf(text, sizeof text, "%u %u 1", on_disk, inside);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int written = (int)write(fd, text, strlen(text)), error = errno;
    close(fd);
    errno = error;
    return written < 0 ? -1 : 0;
}

static _Noreturn void live_with(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent)
        pause();
    _exit(1);
}

int hostside_owner_userns(uint32_t uid_on_disk, uint32_t uid_inside, uint32_t gid_on_disk, uint32_t gid_inside)
{
    struct sys_clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    pid_t parent = getpid(), pid = sys_clone3(&args);
    if (pid == 0)
        live_with(parent);
    if (pid < 0)
        return -1;
    char path[64];
    int userns = -1;
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    if (map_owner(pid, "uid_map", uid_on_disk, uid_inside) == 0 &&
        map_owner(pid, "gid_map", gid_on_disk, gid_inside) == 0)
        userns = open(path, O_RDONLY | O_CLOEXEC);
    int error = errno;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = error;
    return userns;
}

static int idmap(int tree, int userns)
{
    struct sys_mount_attr attr = {.attr_set = SYS_MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns};
    return sys_mount_setattr(tree, "", SYS_AT_EMPTY_PATH, &attr);
}

int hostside_tree(const struct op *op, const char *path, int dirfd, int session_userns)
{
    unsigned how = SYS_OPEN_TREE_CLONE | SYS_OPEN_TREE_CLOEXEC | (*path ? 0 : SYS_AT_EMPTY_PATH) |
                   (op->flags & TREE_NOT_RECURSIVE ? 0 : SYS_AT_RECURSIVE);
    int tree = sys_open_tree(dirfd, path, how);
    if (tree < 0)
        return -1;
    int userns = session_userns;
    if (op->flags & TREE_IDMAP_OWNER)
        userns = hostside_owner_userns(op->n0, (uint32_t)op->v0, op->n1, (uint32_t)op->v1);
    if ((op->flags & (TREE_IDMAP | TREE_IDMAP_OWNER)) && (userns < 0 || idmap(tree, userns) < 0))
        goto failed;
    if (userns != session_userns)
        close(userns);
    if (mount_set(tree, mount_attributes(op->flags), !(op->flags & TREE_NOT_RECURSIVE)) < 0)
        goto failed;
    return tree;
failed:;
    int error = errno;
    close(tree);
    errno = error;
    return -1;
}

/* The caller's message: the listening sockets, the warden's and the spawner's. */
static void receive_listeners(int *listeners)
{
    char byte;
    int count = 2;
    if (message_receive(FD_SETUP, &byte, 1, listeners, &count) != 1 || count != 2)
        _exit(1); /* the caller has given up */
}

/* One byte for each handed-over operation (1: its descriptor came along, 0: optional and absent). */
static size_t make_trees(const struct plan *plan, int userns, int *listeners, char *present, int *trees, int *count)
{
    size_t asked = 0;
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    *count = 0;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind == OP_AWAIT)
            receive_listeners(listeners);
        if (op.kind == OP_DISK)
            disk_mount(&op);
        if (op.kind != OP_TREE || !(op.flags & TREE_HOST))
            continue;
        errno = E2BIG;
        CHECK(asked == MESSAGE_FDS - 1 ? -1 : 0, "mount", "too many host directories in one plan");
        int tree = hostside_tree(&op, op.s0, AT_FDCWD, userns);
        if (tree < 0 && !(errno == ENOENT && (op.flags & TREE_OPTIONAL)))
            fail(op.flags & (TREE_IDMAP | TREE_IDMAP_OWNER) ? "idmapped mount" : "mount", op.s0);
        present[asked++] = tree >= 0;
        if (tree >= 0)
            trees[(*count)++] = tree;
    }
    return asked ? asked : 1; /* a SOCK_SEQPACKET message has at least one byte */
}

/* ---- the way in ---- */

static struct {
    const uint64_t flag;
    const char *const name;
    int fd;
} joined[] = {{CLONE_NEWUSER, "user", -1}, {CLONE_NEWIPC, "ipc", -1}, {CLONE_NEWUTS, "uts", -1}};

static void open_namespaces(uint64_t mask, int proc, pid_t init)
{
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (mask & joined[i].flag) {
            char path[64];
            snprintf(path, sizeof path, "%d/ns/%s", (int)init, joined[i].name);
            CHECK(joined[i].fd = openat(proc, path, O_RDONLY | O_CLOEXEC), "open namespace", joined[i].name);
        }
}

static void join_namespaces(void)
{
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (joined[i].fd >= 0) {
            CHECK(setns(joined[i].fd, (int)joined[i].flag), "setns", joined[i].name);
            close(joined[i].fd);
        }
}

void hostside_map(const struct plan *plan, int host_proc, pid_t init, uint64_t namespaces)
{
    write_maps(plan, host_proc, init);
    /* once it has settled, init is not dumpable, and its namespaces cannot be opened from outside any more */
    open_namespaces(namespaces, host_proc, init);
}

void hostside_mapped(void)
{
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (joined[i].fd >= 0)
            close(joined[i].fd);
}

int hostside_hand_over(const struct plan *plan, int warden)
{
    char present[MESSAGE_FDS];
    int trees[MESSAGE_FDS], listeners[2] = {-1, -1}, count;
    size_t asked = make_trees(plan, joined[0].fd, listeners, present, trees, &count);
    trees[count++] = listeners[0]; /* last */
    CHECK(message_send(warden, present, asked, trees, count), "socket", "hand over the mounts");
    for (int i = 0; i < count; i++)
        close(trees[i]);
    join_namespaces();
    return listeners[1];
}
