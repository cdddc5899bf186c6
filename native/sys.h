/* System calls in kernel spelling and argument order, for libcs that lack a wrapper. Opinions live one level up. */
#ifndef ALCOVE_SYS_H
#define ALCOVE_SYS_H

#include <linux/types.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* linux/sched.h clashes with sched.h in some libcs; the layout is ABI (clone3(2)). */
struct sys_clone_args {
    __u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* The kernel's, which takes every number (rt_sigaction(2)). */
struct sys_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    __u64 mask;
};

struct sys_open_how {
    __u64 flags, mode, resolve;
};
#define SYS_RESOLVE_NO_MAGICLINKS 0x02
#define SYS_RESOLVE_NO_SYMLINKS 0x04
#define SYS_RESOLVE_IN_ROOT 0x10

struct sys_mount_attr {
    __u64 attr_set, attr_clr, propagation, userns_fd;
};
#define SYS_MOUNT_ATTR_RDONLY 0x00000001
#define SYS_MOUNT_ATTR_NOSUID 0x00000002
#define SYS_MOUNT_ATTR_NODEV 0x00000004
#define SYS_MOUNT_ATTR_NOEXEC 0x00000008
#define SYS_MOUNT_ATTR_IDMAP 0x00100000

#define SYS_OPEN_TREE_CLONE 1
#define SYS_OPEN_TREE_CLOEXEC 02000000
#define SYS_AT_RECURSIVE 0x8000
#define SYS_AT_EMPTY_PATH 0x1000
#define SYS_MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define SYS_MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#define SYS_FSOPEN_CLOEXEC 1
#define SYS_FSMOUNT_CLOEXEC 1
#define SYS_FSCONFIG_SET_FLAG 0
#define SYS_FSCONFIG_SET_STRING 1
#define SYS_FSCONFIG_CMD_CREATE 6

struct sys_landlock_ruleset_attr {
    __u64 handled_access_fs, handled_access_net, scoped;
};
struct sys_landlock_path_beneath_attr {
    __u64 allowed_access;
    __s32 parent_fd;
} __attribute__((packed));
#define SYS_LANDLOCK_RULE_PATH_BENEATH 1

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

static inline pid_t sys_clone3(struct sys_clone_args *args)
{
    return (pid_t)syscall(SYS_clone3, args, sizeof *args);
}

static inline int sys_pidfd_open(pid_t pid, unsigned flags)
{
    return (int)syscall(SYS_pidfd_open, pid, flags);
}

static inline int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
    return (int)syscall(SYS_close_range, first, last, flags);
}

static inline int sys_openat2(int dirfd, const char *path, struct sys_open_how *how)
{
    return (int)syscall(SYS_openat2, dirfd, path, how, sizeof *how);
}

static inline int sys_open_tree(int dirfd, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, dirfd, path, flags);
}

static inline int sys_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return (int)syscall(SYS_move_mount, from_fd, from, to_fd, to, flags);
}

static inline int sys_mount_setattr(int dirfd, const char *path, unsigned flags, struct sys_mount_attr *attr)
{
    return (int)syscall(SYS_mount_setattr, dirfd, path, flags, attr, sizeof *attr);
}

static inline int sys_fsopen(const char *fsname, unsigned flags)
{
    return (int)syscall(SYS_fsopen, fsname, flags);
}

static inline int sys_fsconfig(int fd, unsigned cmd, const char *key, const void *value, int aux)
{
    return (int)syscall(SYS_fsconfig, fd, cmd, key, value, aux);
}

static inline int sys_fsmount(int fd, unsigned flags, unsigned attr)
{
    return (int)syscall(SYS_fsmount, fd, flags, attr);
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
    return (int)syscall(SYS_pivot_root, new_root, put_old);
}

static inline int sys_landlock_create_ruleset(const struct sys_landlock_ruleset_attr *attr, size_t size, __u32 flags)
{
    return (int)syscall(SYS_landlock_create_ruleset, attr, size, flags);
}

static inline int sys_landlock_add_rule(int fd, int type, const void *attr, __u32 flags)
{
    return (int)syscall(SYS_landlock_add_rule, fd, type, attr, flags);
}

static inline int sys_landlock_restrict_self(int fd, __u32 flags)
{
    return (int)syscall(SYS_landlock_restrict_self, fd, flags);
}

#endif
