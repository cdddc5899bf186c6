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

static void let_go(int fd)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
}

/* The cell's root is sealed. A view of the same tmpfs that is not, and that only we know, is there for a moment. */
static int open_unsealed(int root)
{
    struct sys_mount_attr writable = {.attr_clr = SYS_MOUNT_ATTR_RDONLY};
    int view = sys_open_tree(root, "", SYS_OPEN_TREE_CLONE | SYS_OPEN_TREE_CLOEXEC | SYS_AT_EMPTY_PATH);
    if (view >= 0 && sys_mount_setattr(view, "", SYS_AT_EMPTY_PATH, &writable) < 0) {
        let_go(view);
        return -1;
    }
    return view;
}

static int make_in(int directory, const char *name, int file)
{
    if (!file)
        return mkdirat(directory, name, 0755) < 0 && errno != EEXIST ? -1 : 0;
    int fd = openat(directory, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0444);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno != EEXIST ? -1 : 0;
}

/* Makes one missing mount point, or a directory above it: of the cell's root, or of a mount below that. */
static int make_point(int root, int parent, const char *path, const char *leaf, int file)
{
    struct stat cell_root, above;
    if (fstat(root, &cell_root) < 0 || fstat(parent, &above) < 0)
        return -1;
    if (above.st_dev != cell_root.st_dev)
        return make_in(parent, leaf, file);
    int view = open_unsealed(root);
    int made = view < 0 ? -1 : make_in(view, path + strspn(path, "/"), file); /* no absolute path */
    let_go(view);
    return made;
}

/* Opens the mount point, component by component, making what is missing of it. */
static int open_target(const char *path, int file, const char **step)
{
    char part[4096];
    *step = "target";
    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof part)
        return -1;
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), at = root < 0 ? -1 : dup(root);
    for (const char *end = path; at >= 0 && *end;) {
        const char *name = end + strspn(end, "/");
        end = name + strcspn(name, "/");
        memcpy(part, path, (size_t)(end - path));
        part[end - path] = 0;
        int next = open_beneath(root, part, O_PATH);
        if (next < 0 && errno == ENOENT) {
            *step = "mount point";
            if (make_point(root, at, part, part + (name - path), file && !*end) == 0) {
                *step = "target";
                next = open_beneath(root, part, O_PATH);
            }
        }
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    int error = errno;
    if (root >= 0)
        close(root);
    errno = error;
    return at;
}

static int take(const struct attach_view *view, const struct op *op, const int *tree, const char **step)
{
    return tree ? fcntl(*tree, F_DUPFD_CLOEXEC, 0) : clone_source(view, op, step);
}

/* What is to be mounted, detached. */
static int prepare(const struct attach_view *view, const struct op *op, const struct op *holder, const int *trees,
                   int count, const char **step)
{
    static char overlay_step[64];
    int source = take(view, op, count > 0 ? trees : NULL, step);
    if (source < 0 || !(op->flags & TREE_COW))
        return source;
    int mount = -1, changes = take(view, holder, count > 1 ? trees + 1 : NULL, step);
    if (changes >= 0) {
        *step = overlay_step;
        mount = overlay_aside(source, changes, mount_attributes(op->flags & ~(uint32_t)TREE_RDONLY), overlay_step,
                              sizeof overlay_step);
    }
    let_go(changes);
    let_go(source);
    return mount;
}

/* Who has hung up takes it for not done: a mount that comes after that is known to nobody. */
static int put(int tree, int target, int client, const char **step)
{
    *step = "client";
    errno = ECANCELED;
    if (message_hung_up(client))
        return -1;
    *step = "move_mount";
    return sys_move_mount(tree, "", target, "", SYS_MOVE_MOUNT_F_EMPTY_PATH | SYS_MOVE_MOUNT_T_EMPTY_PATH);
}

const char *attach(const struct attach_view *view, const struct op *op, const struct op *holder, const int *trees,
                   int count, int client)
{
    const char *step = "client";
    errno = ECANCELED;
    if (message_hung_up(client))
        return step;
    step = "source";
    int tree = prepare(view, op, holder, trees, count, &step);
    if (tree < 0)
        return step;
    mode_t mask = umask(0);
    int target = open_target(op->s1, (op->flags & TREE_FILE) != 0, &step);
    umask(mask);
    if (target >= 0 && put(tree, target, client, &step) == 0)
        step = "";
    let_go(target);
    let_go(tree);
    return step;
}
