/* What the processes of one session share. */
#ifndef ALCOVE_SESSION_H
#define ALCOVE_SESSION_H

#include "plan.h"
#include "sys.h"

#include <stdint.h>
#include <sys/types.h>

/* The caller starts the binary with one socket, and goes on preparing while we begin. A first message on it brings the
 * plan. A second brings two listening sockets, the warden's and the spawner's, and says that the session's directories
 * are there (OP_AWAIT). */
enum {
    FD_SETUP = 3, /* SOCK_SEQPACKET: two messages come, one report goes back */
    FD_PLAN = 4,  /* sealed memfd */
};

/* ---- report.c: which step failed, and why ---- */
struct report {
    uint32_t ok;
    int32_t error;       /* errno of the failed step */
    int32_t warden_pid, init_pid, spawner_pid;
    char step[64];       /* "mount", "seccomp", … */
    char detail[192];    /* the path or name it was about */
};
void report_ready(pid_t init, pid_t spawner);
/* Reports the failed step with errno, and ends this process. */
_Noreturn void fail(const char *step, const char *detail);
#define CHECK(call, step, detail)                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail((step), (detail));                                                                                    \
    } while (0)

/* ---- title.c ---- */
void title_keep(int argc, char **argv);
void title_set(const char *role);

/* ---- message.c: one SOCK_SEQPACKET message with descriptors ---- */
enum { MESSAGE_FDS = 200 }; /* the kernel's limit is 253 */
int message_send(int socket, const void *data, size_t size, const int *fds, int count);
/* Bytes read, 0 at the end, -1; *count is in: room, out: descriptors received (close-on-exec). */
ssize_t message_receive(int socket, void *data, size_t size, int *fds, int *count);
int message_hung_up(int socket); /* nobody waits for an answer */

/* ---- hostside.c: what only the caller's own credentials can do; runs in the spawner before it enters ---- */
/* The id maps of init's user namespace, which is the session's; opens what the spawner is to enter. */
void hostside_map(const struct plan *plan, int host_proc, pid_t init, uint64_t namespaces);
void hostside_mapped(void); /* the spawner is born: what it is to enter is its own now */
/* In the spawner: the trees for the warden, and its listening socket. Enters the namespaces; returns the spawner's
 * own socket. */
int hostside_hand_over(const struct plan *plan, int warden);
int hostside_tree(const struct op *op, const char *path, int dirfd, int session_userns);
int hostside_owner_userns(uint32_t uid_on_disk, uint32_t uid_inside, uint32_t gid_on_disk, uint32_t gid_inside);

/* ---- mounts.c: the root file system, one operation after the other ---- */
struct mounts {
    int root;          /* the new root, as a mount */
    int blank;         /* an empty directory, as a mount: what hides directories */
    int init;          /* the socket to init, which gives the cell's namespaces and its /proc */
    int pidns, netns;  /* from init */
    int spawner;       /* the socket to the spawner, which hands over the trees that only it can make */
    int trees[MESSAGE_FDS];
    char present[MESSAGE_FDS];
    int handed;        /* they have come */
    int control;       /* and with them the warden's listening socket */
    size_t asked, taken;
    char parent_path[192]; /* the directory that the last mount was put into; parent_length 0: none */
    size_t parent_length;
    int parent;
    const char *covers[2]; /* paths of a masked file and a masked directory, whose covers serve for the others */
};
void mounts_begin(const struct plan *plan, struct mounts *mounts); /* the new root, over the host's */
void mounts_build(const struct plan *plan, struct mounts *mounts);
void mounts_mask(const struct plan *plan, struct mounts *mounts); /* what needs /proc to be there */
void mounts_pivot(void);
void mounts_leave_host(void); /* before the first guest */
int mount_proc(void); /* of the caller's pid namespace, detached */
int mount_set(int tree, uint64_t attributes, int recursive);
int mount_detached(int fs, uint64_t attributes); /* of a configured fs, which is closed */
uint64_t mount_attributes(uint32_t tree_flags);

/* ---- overlay.c ---- */
struct overlay {
    const char *lower, *upper, *work; /* upper and work "": lower layers alone */
};
/* A detached mount, or -1 with errno and the option that was refused, if it was one. */
int overlay_mount(const struct overlay *layers, uint64_t attributes, const char **option);
/* Of two detached trees, the second with directories `upper` and `work`; the caller's mount namespace sees neither. -1
 * with errno and the step that failed. */
int overlay_aside(int lower, int holder, uint64_t attributes, char *step, size_t room);

/* ---- attach.c: a mount on a live session; "" or the step that failed with errno ---- */
struct attach_view {
    int host_mountns, cell_mountns; /* host_mountns -1: trees come along with the request */
};
/* With TREE_COW `holder` says where the changes go. The trees, in that order, are there for root alone. ECANCELED where
 * the client has hung up meanwhile. */
const char *attach(const struct attach_view *view, const struct op *op, const struct op *holder, const int *trees,
                   int count, int client);

/* ---- settle.c ---- */
/* The mounts named by the OP_READONLY that follow become so, all or none: "" or the step that failed with errno. */
const char *settle_mounts(struct plan_cursor rest);

/* ---- disk.c: in the spawner before it enters, as hostside.c ---- */
void disk_mount(const struct op *op);

/* ---- init.c ---- */
_Noreturn void init_main(int host_proc, int socket, int reaped, int network);

/* ---- confine.c: capabilities, no_new_privs, Landlock, seccomp, in that order ---- */
void confine(const struct plan *plan, uint32_t seccomp_variant);
void drop_capabilities(uint64_t keep, const char *who);

/* ---- spawner.c ---- */
/* Enters the cell: expects its mount, pid and net namespaces from the warden. userns, cgroupns: the cell's, or -1 to
 * make them. */
void spawner_enter(const struct plan *plan, int warden, int host_proc, uint32_t seccomp_variant, int userns,
                   int cgroupns);
/* Closes every other descriptor. reaped: init's reports of the orphans that it reaped, or -1. */
_Noreturn void spawner_serve(int listener, int reaped);

/* ---- exec.c: one command, its monitor, its result ---- */
enum exec_step { STEP_NONE, STEP_REQUEST, STEP_TTY, STEP_FORK, STEP_USER, STEP_CWD, STEP_EXEC, STEP_MONITOR };
/* Shared memory between spawner, monitor and command; the guest never maps it. */
struct exec_slot {
    volatile int32_t command;     /* pid inside the cell; 0 before it is born */
    volatile int32_t step, error; /* where the command failed before its first instruction */
};
enum exec_outcome { EXEC_STARTED = 1, EXEC_EXITED, EXEC_FAILED };
struct exec_message {
    uint32_t outcome;
    int32_t status; /* as from waitpid(2) */
    int32_t step, error;
};
/* open_files: RLIMIT_NOFILE is the command's, not the spawner's. */
_Noreturn void exec_monitor(int connection, const struct op *open_files, struct exec_slot *slot);

/* ---- users.c: who a command runs as, from the cell's own /etc/passwd ---- */
struct identity {
    uid_t uid;
    gid_t gid;
    gid_t groups[64];
    int group_count;
};
int identity_find(const char *user, struct identity *identity); /* 0, or -1 with errno */

/* ---- processes.c: who is in /proc ---- */
struct processes {
    int proc; /* the directory, until the end of the walk */
    long at, filled; /* filled below 0: the walk has failed */
    _Alignas(8) char data[2048];
};
void processes_begin(struct processes *processes);
const char *processes_next(struct processes *processes); /* a pid; NULL at the end, and nothing is left open */
void processes_end(struct processes *processes);         /* before that */
/* The number there, after blanks; *text is moved behind it. INT64_MAX when it is larger, -1 when there is none. */
int64_t number_read(const char **text);

/* ---- census.c: who lives in the cell ---- */
struct census {
    uint32_t all; /* but init; the dead too, and what could not be looked at */
    uint32_t processes, execs; /* that live: the guest's, and our monitors */
    uint64_t ticks; /* of processor time that those of the guest's have used (SC_CLK_TCK) */
};
struct census census_take(uint32_t most); /* of that many: a guest may beget faster than we count */

/* ---- freezer.c: holding the cell's processes still ---- */
enum { CLIENTS = 64 }; /* connections to the warden at once */
void freezer_open(int group); /* with the caller's credentials */
/* "" (the client is answered once they stand still, or do not in time), or the step that failed with errno. */
const char *freezer_hold(int client, int stays);
void freezer_thaw(void);             /* what stays stays no longer */
void freezer_forget(int client);     /* and lets go of what it held */
int freezer_has(int client);         /* it holds something, or waits for that */
void freezer_release(void);          /* whoever holds: the end */
int freezer_holds(void);             /* they stand still, or are about to */
uint64_t freezer_time(uint64_t since); /* nanoseconds in which they stood still since then (CLOCK_MONOTONIC) */
int freezer_events(int *pause);      /* what to poll for POLLPRI, and how long at most, or -1 */
void freezer_look(void);
uint64_t now_ns(void);

/* ---- control.c: the warden's life after provisioning ---- */
enum { MOST_HIERARCHIES = 16 };
struct cgroup_doors {
    int tasks[MOST_HIERARCHIES], count; /* v1 */
    int unified, unified_procs;         /* v2: the directory and its cgroup.procs, or -1 */
};
struct warden {
    const struct plan *plan;
    struct cgroup_doors cgroups;
    pid_t init, spawner;
    int control; /* its listening socket */
    int host_proc, cell_pidns, cell_netns, cell_userns, cell_cgroupns;
    struct attach_view view;
};
struct control_reply {
    int32_t error; /* 0, or errno */
    uint32_t processes, execs, frozen;
    uint64_t ticks, frozen_ns;
    char step[64];
};
_Noreturn void control_serve(struct warden *warden);

/* ---- network.c ---- */
/* Serves what follows OP_NETWORK: "" or the step that failed with errno. fds has room for MESSAGE_FDS sockets. */
const char *network_serve(struct plan_cursor *rest, int *fds, int *count);
int network_configure(int protocol, const void *datagram, size_t size); /* 0, or -1 with the kernel's errno */
void network_sent(const int *fds, int count); /* lets go of those that are not kept */

/* ---- probe.c ---- */
int probe_main(const char *directory);

/* ---- warden.c ---- */
/* Before the plan has come: init, and the namespaces that need no plan. Failures are told by warden_main. */
void warden_begin(int network);
void warden_abandon(void); /* no plan will come */
_Noreturn void warden_main(const struct plan *plan);
void enter_cgroups(const struct cgroup_doors *doors, int born_outside);
int open_namespace(int host_proc, const char *name);
uint64_t compiled_in(void);
void die_with_parent(const char *who);
void settle_ids(const char *who); /* root of the session's user namespace, and not dumpable */
void write_proc(int dirfd, const char *path, const char *text, const char *step);

#ifdef ALCOVE_FAULTS
void fault(const struct plan *plan, const char *point);
#define FAULT(plan, point) fault((plan), (point))
#else
#define FAULT(plan, point) ((void)0)
#endif

#endif
