/* Before a session's files are sealed: every mount that they are written through becomes read-only. The kernel refuses
 * that (EBUSY) while anybody can still write through it: a process of the cell, a mapping, or somebody elsewhere whom
 * a guest has handed a descriptor. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>

static int set_readonly(const char *path, int on)
{
    struct sys_open_how how = {.flags = O_PATH | O_CLOEXEC,
                               .resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_SYMLINKS | SYS_RESOLVE_NO_MAGICLINKS};
    struct sys_mount_attr attr = {.attr_set = on ? SYS_MOUNT_ATTR_RDONLY : 0,
                                  .attr_clr = on ? 0 : SYS_MOUNT_ATTR_RDONLY};
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int mount = root < 0 ? -1 : sys_openat2(root, path, &how);
    int done = mount < 0 ? -1 : sys_mount_setattr(mount, "", SYS_AT_EMPTY_PATH, &attr);
    int error = errno;
    if (root >= 0)
        close(root);
    if (mount >= 0)
        close(mount);
    errno = error;
    return done;
}

const char *settle_mounts(struct plan_cursor rest)
{
    struct plan_cursor cursor = rest;
    struct op op;
    int settled = 0;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind == OP_READONLY && set_readonly(op.s0, 1) < 0) {
            int error = errno;
            for (; settled && plan_next(&rest, &op) == 1; settled -= op.kind == OP_READONLY)
                if (op.kind == OP_READONLY)
                    (void)set_readonly(op.s0, 0); /* the session goes on as it was */
            errno = error;
            return "settle";
        }
        settled += op.kind == OP_READONLY;
    }
    return "";
}
