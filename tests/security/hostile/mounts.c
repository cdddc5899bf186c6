/* mounts PLACE: every way to mount, to change a mount or to take one away, by the old calls and by the new. PLACE is a
 * directory; nothing outside of it and of the masks of /proc is touched. Stays alive afterwards. */
#include "hostile.h"

#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#define SYS_fspick 433
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

struct attributes {
    uint64_t set, clear, propagation, userns;
};

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    const char *place = argv[1];
    struct attributes writable = {.clear = 1 /* MOUNT_ATTR_RDONLY */};
    say("tmpfs", mount("none", place, "tmpfs", 0, NULL));
    say("bind", mount("/usr", place, NULL, MS_BIND, NULL));
    say("remount", mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL));
    say("remount-sys", mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    say("proc", mount("proc", place, "proc", 0, NULL));
    say("sysfs", mount("sysfs", place, "sysfs", 0, NULL));
    say("cgroup", mount("none", place, "cgroup", 0, "pids"));
    say("cgroup2", mount("none", place, "cgroup2", 0, NULL));
    say("overlay", mount("none", place, "overlay", 0, "lowerdir=/usr"));
    say("propagation", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
    say("umount-mask", umount2("/proc/kallsyms", MNT_DETACH));
    say("umount-sys", umount2("/proc/sys", MNT_DETACH));
    say("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    say("fspick", syscall(SYS_fspick, AT_FDCWD, place, 0));
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, "/proc", 1 /* OPEN_TREE_CLONE */ | 0x8000 /* AT_RECURSIVE */);
    say("open_tree", tree);
    say("move_mount", syscall(SYS_move_mount, tree, "", AT_FDCWD, place, 4));
    say("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/proc/sys", 0, &writable, sizeof writable));
    say("chroot", chroot(place));
    say("unshare-mount", unshare(CLONE_NEWNS));
    say("unshare-user", unshare(CLONE_NEWUSER | CLONE_NEWNS));
    say("umount-mask-2", umount2("/proc/kallsyms", MNT_DETACH));
    say("pivot_root", syscall(SYS_pivot_root, place, place));
    stay();
}
