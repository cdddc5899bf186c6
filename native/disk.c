/* A session's own disk: a file system on a device of the caller's, for the trees that follow to be cloned from. */
#include "session.h"

#include <fcntl.h>
#include <sched.h>

static int options(int fs, const char *device)
{
    if (sys_fsconfig(fs, SYS_FSCONFIG_SET_STRING, "source", device, 0) < 0)
        return -1;
    /* unused inode tables stay holes of the image */
    if (sys_fsconfig(fs, SYS_FSCONFIG_SET_FLAG, "noinit_itable", NULL, 0) < 0)
        return -1;
    if (sys_fsconfig(fs, SYS_FSCONFIG_SET_STRING, "errors", "remount-ro", 0) < 0)
        return -1;
    return sys_fsconfig(fs, SYS_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

void disk_mount(const struct op *op)
{
    /* A detached mount cannot be cloned before Linux 6.15, so this one gets a place: in a mount namespace that nobody
     * else sees and that is gone once this process has entered the session's, or has been killed. */
    CHECK(unshare(CLONE_NEWNS), "unshare", "mounts for the session's disk");
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), fs = sys_fsopen("ext4", SYS_FSOPEN_CLOEXEC);
    CHECK(root, "open", "/");
    CHECK(mount_set(root, 0, 1), "mount", "the host's mounts, private");
    CHECK(fs, "mount", "ext4");
    CHECK(options(fs, op->s0), "mount", op->s0);
    int mount = sys_fsmount(fs, SYS_FSMOUNT_CLOEXEC, SYS_MOUNT_ATTR_NOSUID | SYS_MOUNT_ATTR_NODEV);
    CHECK(mount, "mount", op->s0);
    CHECK(sys_move_mount(mount, "", AT_FDCWD, op->s1, SYS_MOVE_MOUNT_F_EMPTY_PATH), "move_mount", op->s1);
    close(mount);
    close(fs);
    close(root);
}
