/* The root file system: a small tmpfs with one mount per entry of the plan, then pivot_root onto it. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

uint64_t mount_attributes(uint32_t tree_flags)
{
    return (tree_flags & TREE_RDONLY ? SYS_MOUNT_ATTR_RDONLY : 0U) |
           (tree_flags & TREE_NOSUID ? SYS_MOUNT_ATTR_NOSUID : 0U) |
           (tree_flags & TREE_NODEV ? SYS_MOUNT_ATTR_NODEV : 0U) |
           (tree_flags & TREE_NOEXEC ? SYS_MOUNT_ATTR_NOEXEC : 0U);
}

int mount_set(int tree, uint64_t attributes, int recursive)
{
    /* private: a clone of a shared mount is its peer, and would show later mounts of the host inside */
    struct sys_mount_attr attr = {.attr_set = attributes, .propagation = MS_PRIVATE};
    return sys_mount_setattr(tree, "", SYS_AT_EMPTY_PATH | (recursive ? SYS_AT_RECURSIVE : 0), &attr);
}

static int open_in_root(int root, const char *path)
{
    struct sys_open_how how = {.flags = O_PATH | O_CLOEXEC,
                               .resolve = SYS_RESOLVE_IN_ROOT | SYS_RESOLVE_NO_MAGICLINKS};
    return sys_openat2(root, path, &how);
}

/* Most mounts of a plan lie side by side (/dev, /proc): the directory above is looked up once for all of them. A last
 * component is never followed, so it needs no openat2. */
static void forget_parent(struct mounts *mounts)
{
    if (mounts->parent_length)
        close(mounts->parent);
    mounts->parent_length = 0;
}

static int open_parent(struct mounts *mounts, const char *path, size_t length)
{
    if (length == mounts->parent_length && memcmp(path, mounts->parent_path, length) == 0)
        return mounts->parent;
    forget_parent(mounts);
    if (length >= sizeof mounts->parent_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(mounts->parent_path, path, length);
    mounts->parent_path[length] = '\0';
    mounts->parent = open_in_root(mounts->root, mounts->parent_path);
    mounts->parent_length = mounts->parent < 0 ? 0 : length;
    return mounts->parent;
}

static int place(struct mounts *mounts, int tree, const char *path)
{
    const char *slash = strrchr(path, '/');
    int parent = slash && slash > path ? open_parent(mounts, path, (size_t)(slash - path)) : mounts->root;
    if (parent < 0)
        return -1;
    int moved = sys_move_mount(tree, "", parent, slash ? slash + 1 : path, SYS_MOVE_MOUNT_F_EMPTY_PATH);
    if (strncmp(path, mounts->parent_path, strlen(path)) == 0)
        forget_parent(mounts); /* what was looked up there lies beneath this mount now */
    return moved;
}

static int set_number(int fs, const char *key, unsigned long long value, const char *format)
{
    char text[32];
    snprintf(text, sizeof text, format, value);
    return sys_fsconfig(fs, SYS_FSCONFIG_SET_STRING, key, text, 0);
}

int mount_detached(int fs, uint64_t attributes)
{
    int mount = -1;
    if (sys_fsconfig(fs, SYS_FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = sys_fsmount(fs, SYS_FSMOUNT_CLOEXEC, (unsigned)attributes);
    int error = errno;
    close(fs);
    errno = error;
    return mount;
}

static int tmpfs(uint64_t bytes, uint64_t inodes, uint32_t mode, uint64_t attributes)
{
    int fs = sys_fsopen("tmpfs", SYS_FSOPEN_CLOEXEC);
    if (fs < 0)
        return -1;
    if (set_number(fs, "size", bytes, "%llu") < 0 || set_number(fs, "nr_inodes", inodes, "%llu") < 0 ||
        set_number(fs, "mode", mode, "%llo") < 0) {
        close(fs);
        return -1;
    }
    return mount_detached(fs, attributes);
}

void mounts_begin(const struct plan *plan, struct mounts *mounts)
{
    struct op op;
    plan_find(plan, OP_ROOT, &op);
    mounts->root = tmpfs(op.v0, op.v1, 0755, SYS_MOUNT_ATTR_NOSUID | SYS_MOUNT_ATTR_NODEV);
    CHECK(mounts->root, "mount", "the root tmpfs");
    CHECK(sys_move_mount(mounts->root, "", AT_FDCWD, "/", SYS_MOVE_MOUNT_F_EMPTY_PATH), "mount", "the root over /");
    CHECK(fchdir(mounts->root), "chdir", "the new root"); /* an overlay's options may name layers relative to here */
}

static void build_directory(const struct op *op, const struct mounts *mounts)
{
    struct stat found;
    if (mkdirat(mounts->root, op->s0, op->n0) == 0)
        return;
    if (errno == EEXIST && fstatat(mounts->root, op->s0, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(found.st_mode))
        return;
    fail("mkdir", op->s0);
}

static void build_file(const struct op *op, const struct mounts *mounts)
{
    if (op->len1 == 0) { /* a mount point */
        CHECK(mknodat(mounts->root, op->s0, S_IFREG | op->n0, 0), "create", op->s0);
        return;
    }
    int fd = openat(mounts->root, op->s0, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, op->n0);
    CHECK(fd, "create", op->s0);
    if (write(fd, op->s1, op->len1) != (ssize_t)op->len1)
        fail("write", op->s0);
    close(fd);
}

/* In plan order; waited for as late as possible, since they are made while we build what needs none. */
static void receive_trees(struct mounts *mounts)
{
    int count = MESSAGE_FDS;
    if (message_receive(mounts->spawner, mounts->present, sizeof mounts->present, mounts->trees, &count) < 1 ||
        count == 0)
        _exit(1); /* the spawner has reported why */
    mounts->control = mounts->trees[count - 1];
    mounts->handed = 1;
}

static void await_directories(struct mounts *mounts)
{
    if (!mounts->handed)
        receive_trees(mounts);
}

static int take_tree(struct mounts *mounts)
{
    await_directories(mounts);
    return mounts->present[mounts->asked++] ? mounts->trees[mounts->taken++] : -1;
}

/* What is staged lies over a place of the host's root, and goes away with it. */
static int put(const struct op *op, struct mounts *mounts, int tree, const char *path)
{
    if (op->flags & TREE_STAGE)
        return sys_move_mount(tree, "", AT_FDCWD, path, SYS_MOVE_MOUNT_F_EMPTY_PATH);
    return place(mounts, tree, path);
}

static void build_tree(const struct op *op, struct mounts *mounts)
{
    errno = ENOENT;
    int tree = op->flags & TREE_HOST ? take_tree(mounts) : hostside_tree(op, op->s0, AT_FDCWD, -1);
    if (tree < 0 && errno == ENOENT && (op->flags & TREE_OPTIONAL))
        return;
    CHECK(tree, "mount", op->s0);
    CHECK(put(op, mounts, tree, op->s1), "move_mount", op->s1);
    close(tree);
}

static void build_tmpfs(const struct op *op, struct mounts *mounts)
{
    int mount = tmpfs(op->v0, op->v1, op->n0, mount_attributes(op->flags));
    CHECK(mount, "mount", op->s0);
    CHECK(place(mounts, mount, op->s0), "move_mount", op->s0);
    close(mount);
}

/* As it is now: what is mounted over it later, or sealed, this is not. */
static int clone_of_root(const struct mounts *mounts, const char *path)
{
    return sys_open_tree(mounts->root, path, SYS_OPEN_TREE_CLONE | SYS_OPEN_TREE_CLOEXEC);
}

static void build_writable(const struct op *op, struct mounts *mounts)
{
    int view = clone_of_root(mounts, op->s0);
    CHECK(view, "mount", op->s0);
    CHECK(place(mounts, view, op->s0), "move_mount", op->s0);
    close(view);
}

static void build_devpts(const struct op *op, struct mounts *mounts)
{
    int fs = sys_fsopen("devpts", SYS_FSOPEN_CLOEXEC);
    CHECK(fs, "mount", "devpts");
    sys_fsconfig(fs, SYS_FSCONFIG_SET_FLAG, "newinstance", NULL, 0); /* a no-op since Linux 4.7 */
    CHECK(sys_fsconfig(fs, SYS_FSCONFIG_SET_STRING, "ptmxmode", "0666", 0), "mount", "devpts ptmxmode");
    CHECK(sys_fsconfig(fs, SYS_FSCONFIG_SET_STRING, "mode", "0620", 0), "mount", "devpts mode");
    int mount = mount_detached(fs, SYS_MOUNT_ATTR_NOSUID | SYS_MOUNT_ATTR_NOEXEC);
    CHECK(mount, "mount", "devpts");
    CHECK(place(mounts, mount, op->s0), "move_mount", op->s0);
    close(mount);
}

static void build_overlay(const struct op *op, const struct op *layers, struct mounts *mounts)
{
    const char *option;
    int mount = overlay_mount(&(struct overlay){.lower = op->s1, .upper = layers->s0, .work = layers->s1},
                              mount_attributes(op->flags), &option);
    CHECK(mount, *option ? "overlay option" : "overlay", *option ? option : op->s0);
    CHECK(put(op, mounts, mount, op->s0), "move_mount", op->s0);
    close(mount);
}

/* Waits for init, which has been making the network meanwhile. */
static void build_proc(const struct op *op, struct mounts *mounts)
{
    int fds[3], count = 3;
    char byte = 0;
    if (message_receive(mounts->init, &byte, 1, fds, &count) != 1 || byte != 'i' || count != 3)
        _exit(1); /* init has reported why */
    CHECK(message_send(mounts->init, "a", 1, NULL, 0), "socket", "init");
    mounts->pidns = fds[0];
    mounts->netns = fds[1];
    CHECK(mounts->blank = clone_of_root(mounts, op->s0), "open_tree", op->s0); /* empty, for want of /proc */
    CHECK(place(mounts, fds[2], op->s0), "move_mount", op->s0);
    close(fds[2]);
}

void mounts_build(const struct plan *plan, struct mounts *mounts)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op, layers;
    umask(0); /* modes are the plan's */
    while (plan_next(&cursor, &op) == 1) {
        switch (op.kind) {
        case OP_DIRECTORY: build_directory(&op, mounts); break;
        case OP_SYMLINK: CHECK(symlinkat(op.s1, mounts->root, op.s0), "symlink", op.s0); break;
        case OP_FILE: build_file(&op, mounts); break;
        case OP_TREE: build_tree(&op, mounts); break;
        case OP_TMPFS: build_tmpfs(&op, mounts); break;
        case OP_WRITABLE: build_writable(&op, mounts); break;
        case OP_PROC: build_proc(&op, mounts); break;
        case OP_AWAIT: await_directories(mounts); break;
        case OP_DEVPTS: build_devpts(&op, mounts); break;
        case OP_OVERLAY: {
            struct plan_cursor rest = cursor;
            if (plan_next(&rest, &layers) != 1 || layers.kind != OP_OVERLAY_UPPER)
                layers = (struct op){.s0 = "", .s1 = ""};
            build_overlay(&op, &layers, mounts);
            break;
        }
        default: break;
        }
    }
    umask(077);
}

int mount_proc(void)
{
    int fs = sys_fsopen("proc", SYS_FSOPEN_CLOEXEC);
    if (fs < 0)
        return -1;
    return mount_detached(fs, SYS_MOUNT_ATTR_NOSUID | SYS_MOUNT_ATTR_NODEV | SYS_MOUNT_ATTR_NOEXEC);
}

#ifdef ALCOVE_OFF_MNTMASK
enum { MASKING = 0 };
#else
enum { MASKING = 1 };
#endif

/* A read-only cover of the kind of what it hides. The first of a kind is made; the others are clones of that one. */
static int cover(const struct mounts *mounts, int directory)
{
    if (mounts->covers[directory])
        return clone_of_root(mounts, mounts->covers[directory]);
    int first = directory ? fcntl(mounts->blank, F_DUPFD_CLOEXEC, 0) : clone_of_root(mounts, "dev/null");
    return first < 0 || mount_set(first, SYS_MOUNT_ATTR_RDONLY, 0) < 0 ? -1 : first;
}

static void mask(const struct op *op, struct mounts *mounts)
{
    struct stat found;
    if (fstatat(mounts->root, op->s0, &found, AT_SYMLINK_NOFOLLOW) < 0)
        return; /* this kernel has no such file */
    int directory = S_ISDIR(found.st_mode);
    int tree = cover(mounts, directory);
    CHECK(tree, "mask", op->s0);
    CHECK(place(mounts, tree, op->s0), "mask", op->s0);
    close(tree);
    mounts->covers[directory] = op->s0;
}

static void readonly(const struct op *op, struct mounts *mounts)
{
    int view = sys_open_tree(mounts->root, op->s0, SYS_OPEN_TREE_CLONE | SYS_OPEN_TREE_CLOEXEC | SYS_AT_RECURSIVE);
    CHECK(view, "read-only view", op->s0);
    CHECK(mount_set(view, SYS_MOUNT_ATTR_RDONLY | SYS_MOUNT_ATTR_NOSUID | SYS_MOUNT_ATTR_NODEV | SYS_MOUNT_ATTR_NOEXEC,
                    1), "read-only view", op->s0);
    CHECK(place(mounts, view, op->s0), "read-only view", op->s0);
    close(view);
}

void mounts_mask(const struct plan *plan, struct mounts *mounts)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind == OP_MASK && MASKING)
            mask(&op, mounts);
        else if (op.kind == OP_READONLY && MASKING)
            readonly(&op, mounts);
        else if (op.kind == OP_SEAL)
            CHECK(mount_set(mounts->root, SYS_MOUNT_ATTR_RDONLY, 0), "read-only root", "");
    }
    forget_parent(mounts);
    close(mounts->blank);
}

void mounts_pivot(void)
{
    CHECK(sys_pivot_root(".", "."), "pivot_root", "");
}

void mounts_leave_host(void)
{
    /* the old root now lies over the new one: take it away, with everything beneath it */
    CHECK(umount2(".", MNT_DETACH), "umount", "the host's root");
    CHECK(chdir("/"), "chdir", "/");
}
