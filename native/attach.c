/* A mount on a live session. The source is resolved in the host's view and compared by device and inode with what the
 * caller meant; the target is resolved from the cell's root without following a single link, since the guest may
 * exchange names while we look. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static int open_beneath(int root, const char *path, uint64_t flags)
{
    struct sys_open_how how = {.flags = flags | O_CLOEXEC,
                               .resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_SYMLINKS | SYS_RESOLVE_NO_MAGICLINKS};
    return sys_openat2(root, path, &how);
}

/* Clones the source out of the host's tree; the caller's mount namespace is the cell's again afterwards. */
static int clone_source(const struct attach_view *view, const struct op *op, const char **step)
{
    int tree = -1;
    struct stat found;
    *step = "host view";
    if (setns(view->host_mountns, CLONE_NEWNS) < 0)
        return -1;
    int source = open(op->s0, O_PATH | O_CLOEXEC);
    *step = "source";
    if (source >= 0 && fstat(source, &found) == 0) {
        errno = ESTALE; /* somebody exchanged it since the caller looked */
        if (found.st_dev == op->v0 && found.st_ino == op->v1)
            tree = hostside_tree(op, "", source, -1);
    }
    int error = errno;
    if (source >= 0)
        close(source);
    if (setns(view->cell_mountns, CLONE_NEWNS) < 0)
        _exit(1); /* a warden in the wrong namespace must not go on */
    errno = error;
    return tree;
}

/* Opens the mount point, making what is missing of it: below the root on the tmpfs, below a mount on that mount. */
static int open_target(const struct attach_view *view, const char *path, int is_file, const char **step)
{
    char part[4096];
    *step = "target";
    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof part)
        return -1;
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), at = -1;
    struct stat cell_root, parent;
    if (root < 0 || fstat(root, &cell_root) < 0)
        return -1;
    for (const char *end = path; *end;) {
        end += strspn(end, "/");
        const char *name = end;
        end += strcspn(end, "/");
        memcpy(part, path, (size_t)(end - path));
        part[end - path] = 0;
        int next = open_beneath(root, part, O_PATH);
        if (next < 0 && errno == ENOENT) {
            char leaf[256];
            size_t length = (size_t)(end - name);
            errno = ENAMETOOLONG;
            if (length >= sizeof leaf)
                break;
            memcpy(leaf, name, length);
            leaf[length] = 0;
            int where = at < 0 ? root : at, made;
            /* the root itself is sealed read-only; `scratch` is the same directory, writable, known only to us */
            int below_root = fstat(where, &parent) == 0 && parent.st_dev == cell_root.st_dev;
            *step = "mount point";
            if (below_root) {
                char relative[4096];
                memcpy(relative, part + 1, strlen(part));
                made = is_file && !*end ? openat(view->scratch, relative, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444)
                                        : mkdirat(view->scratch, relative, 0755);
            } else {
                made = is_file && !*end ? openat(where, leaf, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0444)
                                        : mkdirat(where, leaf, 0755);
            }
            if (made < 0 && errno != EEXIST)
                break;
            if (made > 0)
                close(made);
            *step = "target";
            next = open_beneath(root, part, O_PATH);
        }
        if (next < 0)
            break;
        if (at >= 0)
            close(at);
        at = next;
        if (!*end) {
            close(root);
            return at;
        }
    }
    int error = errno;
    if (at >= 0)
        close(at);
    close(root);
    errno = error;
    return -1;
}

const char *attach(const struct attach_view *view, const struct op *op, int tree)
{
    const char *step = "";
    int cloned = tree < 0;
    if (cloned && (tree = clone_source(view, op, &step)) < 0)
        return step;
    mode_t mask = umask(0);
    int target = open_target(view, op->s1, (op->flags & TREE_FILE) != 0, &step);
    umask(mask);
    if (target >= 0) {
        step = sys_move_mount(tree, "", target, "", SYS_MOVE_MOUNT_F_EMPTY_PATH | SYS_MOVE_MOUNT_T_EMPTY_PATH) < 0
                   ? "move_mount" : "";
        int error = errno;
        close(target);
        errno = error;
    }
    int error = errno;
    if (cloned)
        close(tree);
    errno = error;
    return step;
}
