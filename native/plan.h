/* The plan: what Python decided, as a flat list of operations. Decoding checks every length; it decides nothing.
 *
 * One operation on the wire, little-endian, padded to 8 bytes:
 *   u32 kind, flags, n0, n1; u64 v0, v1; u32 len0, len1; s0[len0], NUL, s1[len1], NUL
 * The same form carries exec requests and control requests. src/alcove/local/cell/plan.py is the other half. */
#ifndef ALCOVE_PLAN_H
#define ALCOVE_PLAN_H

#include <stddef.h>
#include <stdint.h>

enum op_kind {
    /* the session */
    OP_NAMESPACES = 1, /* v0: CLONE_NEW* of the cell; n0: keep a view of the host's mounts for later attaches */
    OP_HOSTNAME,       /* s0 */
    OP_MAP_UID,        /* n0 inside, n1 outside, v0 count */
    OP_MAP_GID,
    OP_CGROUP_TASKS,   /* s0: a v1 `tasks` file for the spawner to enter by */
    OP_CGROUP_UNIFIED, /* s0: a v2 directory for the spawner to be born in */
    OP_SYSCTL,         /* s0 path below /proc/sys of the new namespaces, s1 value */
    OP_USER_SYSCTL,    /* the same, of the cell's own user namespace */
    OP_RLIMIT,         /* n0 resource, v0 soft, v1 hard */
    OP_CAPABILITIES,   /* v0: the bounding, permitted and effective set */
    OP_LANDLOCK,       /* v0 handled_access_fs, v1 scoped */
    OP_LANDLOCK_RULE,  /* s0 path, v0 allowed_access */
    OP_SECCOMP,        /* n0 variant (0 default, 1 debug), s0: struct sock_filter[] */
    OP_OOM_SCORE,      /* n0: oom_score_adj of everything in the cell */
    OP_AWAIT,          /* what follows is in the session's directories: wait for the caller to have made them */

    OP_DISK = 24, /* s0 device, s1 host path: its ext4 lies there for the trees that follow, and for nobody else */

    /* the root file system, in order */
    OP_ROOT = 32, /* v0 bytes, v1 inodes */
    OP_DIRECTORY, /* s0 path, n0 mode */
    OP_SYMLINK,   /* s0 path, s1 target */
    OP_FILE,      /* s0 path, s1 content, n0 mode */
    OP_TREE,      /* s0 host path, s1 path, flags TREE_*; n0, n1: owner on disk for TREE_IDMAP_OWNER */
    OP_TMPFS,     /* s0 path, v0 bytes, v1 inodes, n0 mode, flags TREE_* */
    OP_OVERLAY,   /* s0 path, s1 lower, flags; upper and work follow as OP_OVERLAY_UPPER */
    OP_OVERLAY_UPPER, /* s0 upper, s1 work */
    OP_WRITABLE,      /* s0 path: a directory of the root's that stays writable when it is sealed */
    OP_PROC,          /* s0 path; also an empty directory to hide others behind */
    OP_DEVPTS,        /* s0 path */
    OP_MASK,          /* s0 path: hide it, if it is there */
    OP_READONLY,      /* s0 path: a read-only view of itself */
    OP_SEAL,          /* the root itself becomes read-only */

    /* an exec request */
    OP_ARGV = 64, /* s0: n0 strings, each with its NUL */
    OP_ENV,
    OP_FALLBACK_ARGV, /* tried when the command is not found in PATH */
    OP_CWD,           /* s0 */
    OP_USER,          /* s0 name or number */
    OP_TTY,           /* n0 rows, n1 columns */
    OP_STDIO,         /* flags: STDIO_*, which descriptors came with the request, in that order */
    OP_BODY,          /* the operations are in the last descriptor (a sealed memfd), v0 bytes */

    /* control requests */
    OP_ATTACH = 96, /* s0 host path ("" when a mount came along), s1 path, flags; v0 device, v1 inode. With TREE_COW an
                     * OP_TREE follows: the same of the directory that has `upper` and `work` */
    OP_DRAIN,       /* read and drop what comes out of these pipes */
    OP_STATUS,      /* who lives in the cell, and for how long it has stood still since v0 (CLOCK_MONOTONIC, ns);
                     * n0: the latter only */
    OP_END,         /* kill every process of the cell, answer, and end; n0: only if there is none, and if the following
                     * OP_READONLY can be: EBUSY where somebody can still write */
    OP_SPAWNER,     /* n0 seccomp variant: start another spawner on the listening socket that came along */
    OP_NETWORK,     /* the following two, in the session's net namespace; the sockets go back with the reply */
    OP_NETLINK,     /* n0 protocol, s0 one datagram whose last message asks for an acknowledgement */
    OP_SOCKET,      /* n0 type, v0 family, n1 port on its loopback (the same socket for ever), or 0: not bound */
    OP_FREEZE,      /* hold its processes still, as long as this connection lives; n0: until OP_THAW. Answers then */
    OP_THAW,

    OP_FAULT = 128, /* test builds: s0 point, s1 action */
};

enum {
    TREE_RDONLY = 1,
    TREE_NOSUID = 2,
    TREE_NODEV = 4,
    TREE_NOEXEC = 8,
    TREE_HOST = 16,          /* made by the caller's own credentials and handed over */
    TREE_IDMAP = 32,         /* ids on disk are the session's own, counted from 0 */
    TREE_IDMAP_OWNER = 64,   /* the owner on disk appears as the session's root */
    TREE_OPTIONAL = 128,     /* absent on the host: skip */
    TREE_NOT_RECURSIVE = 256, /* without the mounts beneath */
    TREE_STAGE = 1024,        /* s1 is a place of the host's root: a layer for an overlay, gone with that root */
    TREE_FILE = 512,          /* the source is a file, so its mount point is one (attach) */
    TREE_COW = 2048           /* what is written goes elsewhere (attach) */
};

enum { STDIO_IN = 1, STDIO_OUT = 2, STDIO_ERR = 4 };

struct op {
    uint32_t kind, flags, n0, n1;
    uint64_t v0, v1;
    uint32_t len0, len1;
    const char *s0, *s1;
};

struct plan {
    const char *data;
    size_t size;
};

struct plan_cursor {
    const char *next;
    size_t left;
};

/* Steps to the next operation: 1 = *op is filled, 0 = the end, -1 = malformed. Strings point into the plan. */
int plan_next(struct plan_cursor *cursor, struct op *op);
struct plan_cursor plan_begin(const struct plan *plan);
/* Every operation decodes: 0, or -1. */
int plan_check(const struct plan *plan);
/* The first operation of a kind: 1, or 0 and *op zeroed. The plan has passed plan_check. */
int plan_find(const struct plan *plan, uint32_t kind, struct op *op);
/* Splits a packed string list in place into `count` pointers and a NULL; NULL when it does not hold that many. */
char **plan_strings(const struct op *op);

#endif
