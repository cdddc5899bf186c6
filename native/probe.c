/* `alcove-warden --probe DIRECTORY`: what only a system call can tell about this host, one fact a line. Every step of
 * provisioning is tried by itself, in a throw-away child and in the order of warden.c. `landlock` is an ABI and `idmap`
 * 1 or 0; every other value is the errno of that step, 0 for one that worked, -1 for one that an earlier refusal kept
 * from being tried. What the facts mean is decided in src/alcove/local/doctor. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { FIRST_ID = 0x20000000, IDS = 65536 }; /* as src/alcove/local/store.py gives them to root's first session */

enum fact {
    CLONE3, INTO_CGROUP, PIDFD, OPENAT2, CLOSE_RANGE, NNP, SECCOMP, LANDLOCK, HOST_TREE,
    USERNS, UID_MAP, GID_MAP, SET_IDS, MOUNTNS, NETNS, LOOPBACK, REDIRECT, IPCNS, UTSNS, TREE, ROOT, OVERLAY, DEVPTS,
    PIDNS, PROC, PIVOT, CGROUPNS, CELLNS, FACTS
};
static const char *const names[FACTS] = {
    "clone3", "clone_into_cgroup", "pidfd", "openat2", "close_range", "no_new_privs", "seccomp", "landlock_enforce",
    "host_tree", "userns", "uid_map", "gid_map", "set_ids", "mountns", "netns", "loopback", "redirect", "ipcns",
    "utsns", "tree", "root", "overlay", "devpts", "pidns", "proc", "pivot_root", "cgroupns", "cellns",
};
static int *facts; /* shared with the children */

static int tell(enum fact fact, long result)
{
    facts[fact] = result < 0 ? errno : 0;
    return result >= 0;
}

static void in_child(void (*try)(void))
{
    pid_t pid = fork(); /* not clone3: that it is refused must not hide everything else */
    if (pid == 0) {
        try();
        _exit(0);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

/* ---- by the caller's own credentials ---- */

static int idmap_fd = -1;

static void try_idmap(void)
{
    struct stat found;
    if (fstat(idmap_fd, &found) < 0)
        _exit(0);
    struct op op = {.flags = TREE_IDMAP_OWNER | TREE_NOT_RECURSIVE, .n0 = found.st_uid, .n1 = found.st_gid};
    op.v0 = op.v1 = FIRST_ID;
    facts[FACTS] = hostside_tree(&op, "", idmap_fd, -1) >= 0;
}

static void try_clone3(void)
{
    struct sys_clone_args args = {.exit_signal = SIGCHLD};
    pid_t pid = sys_clone3(&args);
    if (pid == 0)
        _exit(0);
    if (!tell(CLONE3, pid))
        return;
    waitpid(pid, NULL, 0);
    /* no such descriptor, so nothing is born: a kernel that knows the flag says EBADF, another EINVAL or E2BIG */
    args.flags = CLONE_INTO_CGROUP;
    args.cgroup = 0x3fffffff;
    pid = sys_clone3(&args);
    if (pid == 0)
        _exit(0);
    facts[INTO_CGROUP] = errno == EBADF ? 0 : errno;
}

static void try_calls(void)
{
    struct sys_open_how how = {.flags = O_PATH | O_CLOEXEC,
                               .resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_MAGICLINKS};
    tell(PIDFD, sys_pidfd_open(getpid(), 0));
    tell(OPENAT2, sys_openat2(AT_FDCWD, "/", &how));
    tell(CLOSE_RANGE, sys_close_range(FD_PLAN + 1, ~0U, 0));
    if (geteuid() == 0) { /* a plain user's trees are cloned inside: TREE */
        struct op usr = {.flags = TREE_RDONLY | TREE_NOSUID | TREE_NODEV};
        tell(HOST_TREE, hostside_tree(&usr, "/usr", AT_FDCWD, -1));
    }
}

static void try_filters(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    if (!tell(NNP, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))
        return;
    struct sys_landlock_ruleset_attr attr = {.handled_access_fs = 1};
    int ruleset = sys_landlock_create_ruleset(&attr, sizeof attr.handled_access_fs, 0);
    if (tell(LANDLOCK, ruleset))
        tell(LANDLOCK, sys_landlock_restrict_self(ruleset, 0));
    tell(SECCOMP, syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/* ---- inside a user namespace ---- */

static int detached(const char *type, const char *const (*options)[2])
{
    int mount = -1, fs = sys_fsopen(type, SYS_FSOPEN_CLOEXEC);
    if (fs < 0)
        return -1;
    int fine = 1;
    for (; options && (*options)[0] && fine; options++)
        fine = sys_fsconfig(fs, (*options)[1] ? SYS_FSCONFIG_SET_STRING : SYS_FSCONFIG_SET_FLAG, (*options)[0],
                            (*options)[1], 0) == 0;
    if (fine && sys_fsconfig(fs, SYS_FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = sys_fsmount(fs, SYS_FSMOUNT_CLOEXEC, 0);
    int error = errno;
    close(fs);
    errno = error;
    return mount;
}

static void try_pidns(void)
{
    if (!tell(PIDNS, unshare(CLONE_NEWPID)))
        return;
    pid_t pid = fork();
    if (pid == 0) {
        tell(PROC, detached("proc", NULL));
        _exit(0);
    }
    if (tell(PIDNS, pid))
        waitpid(pid, NULL, 0);
}

static void try_cellns(void)
{
    tell(CGROUPNS, unshare(CLONE_NEWCGROUP));
    tell(CELLNS, unshare(CLONE_NEWUSER));
}

static void try_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (tell(LOOPBACK, fd))
        tell(LOOPBACK, ioctl(fd, SIOCSIFFLAGS, &request));
}

static char redirects[4096]; /* a datagram for nftables, from standard input: what egress enforcement asks of it */
static ssize_t redirects_size;

static void try_redirect(void)
{
    if (redirects_size > 0)
        tell(REDIRECT, network_configure(NETLINK_NETFILTER, redirects, (size_t)redirects_size));
}

static void try_root(void)
{
    static const char *const small[][2] = {{"size", "65536"}, {0}};
    static const char *const layers[][2] = {
        {"lowerdir", "lower"}, {"upperdir", "upper"}, {"workdir", "work"}, {"metacopy", "off"},
        {"redirect_dir", "nofollow"}, {"index", "off"}, {"userxattr", NULL}, {0},
    };
    struct op usr = {.flags = TREE_RDONLY | TREE_NOSUID | TREE_NODEV};
    tell(TREE, hostside_tree(&usr, "/usr", AT_FDCWD, -1));
    tell(DEVPTS, detached("devpts", NULL));
    int root = detached("tmpfs", small);
    if (!tell(ROOT, root) || !tell(ROOT, sys_move_mount(root, "", AT_FDCWD, "/", SYS_MOVE_MOUNT_F_EMPTY_PATH)) ||
        !tell(ROOT, fchdir(root)))
        return;
    if (mkdir("lower", 0755) == 0 && mkdir("upper", 0755) == 0 && mkdir("work", 0755) == 0)
        tell(OVERLAY, detached("overlay", layers));
    tell(PIVOT, sys_pivot_root(".", "."));
}

static int door[2]; /* the child's end is 1 */

static void try_cell(void)
{
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!tell(USERNS, unshare(CLONE_NEWUSER)) || write(door[1], "u", 1) != 1 || read(door[1], &byte, 1) != 1 ||
        byte != 'm')
        return;
    if (!tell(SET_IDS, setresgid(0, 0, 0)) || !tell(SET_IDS, setresuid(0, 0, 0)))
        return;
    if (tell(NETNS, unshare(CLONE_NEWNET))) {
        try_loopback();
        try_redirect();
    }
    tell(IPCNS, unshare(CLONE_NEWIPC));
    if (tell(UTSNS, unshare(CLONE_NEWUTS)))
        tell(UTSNS, sethostname("alcove", 6));
    in_child(try_cellns);
    if (!tell(MOUNTNS, unshare(CLONE_NEWNS)) || !tell(MOUNTNS, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
        return;
    in_child(try_pidns);
    try_root();
}

static int write_child(pid_t pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return written < 0 ? -1 : 0;
}

static void map_ids(pid_t pid)
{
    char text[64];
    int root = geteuid() == 0;
    if (!root)
        write_child(pid, "setgroups", "deny"); /* gid_map tells if this was refused */
    snprintf(text, sizeof text, "0 %u %u\n", root ? (unsigned)FIRST_ID : geteuid(), root ? (unsigned)IDS : 1U);
    int mapped = tell(UID_MAP, write_child(pid, "uid_map", text));
    snprintf(text, sizeof text, "0 %u %u\n", root ? (unsigned)FIRST_ID : getegid(), root ? (unsigned)IDS : 1U);
    mapped = tell(GID_MAP, write_child(pid, "gid_map", text)) && mapped;
    (void)!write(door[0], mapped ? "m" : "x", 1);
}

static void cell(void)
{
    char byte;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, door) < 0)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        close(door[0]);
        try_cell();
        _exit(0);
    }
    close(door[1]);
    if (pid > 0 && read(door[0], &byte, 1) == 1)
        map_ids(pid);
    close(door[0]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

int probe_main(const char *directory)
{
    facts = mmap(NULL, (FACTS + 1) * sizeof *facts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (facts == MAP_FAILED)
        return 1;
    for (int i = 0; i < FACTS; i++)
        facts[i] = -1;
    redirects_size = read(0, redirects, sizeof redirects);
    idmap_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (geteuid() == 0 && idmap_fd >= 0)
        in_child(try_idmap);
    in_child(try_clone3);
    in_child(try_calls);
    in_child(try_filters);
    cell();
    int landlock = sys_landlock_create_ruleset(NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
    dprintf(1, "landlock %d\nidmap %d\n", landlock < 0 ? 0 : landlock, facts[FACTS]);
    for (int i = 0; i < FACTS; i++)
        dprintf(1, "%s %d\n", names[i], facts[i]);
    return 0;
}
