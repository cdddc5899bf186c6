/* Overlays: of layers that lie in this mount namespace, and over a directory that nothing is to be written to. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* The caller waits 10 s for its answer; a child that takes longer hangs on its disk. */
enum { MADE_WITHIN_MS = 5000, MOST_OPTION = 256 /* of fsconfig(2) */ };

static int set(int fs, unsigned command, const char *key, const char *value, const char **option)
{
    *option = key;
    return sys_fsconfig(fs, command, key, value, 0);
}

/* One option holds 255 bytes; more layers are added one by one, which Linux 6.7 can. */
static int set_lower(int fs, const char *lower, const char **option)
{
    char layer[MOST_OPTION];
    if (strlen(lower) < MOST_OPTION)
        return set(fs, SYS_FSCONFIG_SET_STRING, "lowerdir", lower, option);
    for (const char *at = lower, *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, ":");
        snprintf(layer, sizeof layer, "%.*s", (int)(end - at), at);
        if (set(fs, SYS_FSCONFIG_SET_STRING, "lowerdir+", layer, option) < 0)
            return -1;
    }
    return 0;
}

static int configure(int fs, const struct overlay *layers, const char **option)
{
    if (set_lower(fs, layers->lower, option) < 0)
        return -1;
    if (*layers->upper && (set(fs, SYS_FSCONFIG_SET_STRING, "upperdir", layers->upper, option) < 0 ||
                           set(fs, SYS_FSCONFIG_SET_STRING, "workdir", layers->work, option) < 0))
        return -1;
    if (set(fs, SYS_FSCONFIG_SET_STRING, "metacopy", "off", option) < 0 ||
        set(fs, SYS_FSCONFIG_SET_STRING, "redirect_dir", "nofollow", option) < 0 ||
        set(fs, SYS_FSCONFIG_SET_STRING, "index", "off", option) < 0)
        return -1;
    return set(fs, SYS_FSCONFIG_SET_FLAG, "userxattr", NULL, option);
}

int overlay_mount(const struct overlay *layers, uint64_t attributes, const char **option)
{
    *option = "";
    int fs = sys_fsopen("overlay", SYS_FSOPEN_CLOEXEC);
    if (fs < 0)
        return -1;
    if (configure(fs, layers, option) < 0) {
        int error = errno;
        close(fs);
        errno = error;
        return -1;
    }
    *option = "";
    return mount_detached(fs, attributes);
}

/* Over two directories that every cell has. */
static int mount_staged(int lower, int holder, uint64_t attributes, const char **step)
{
    static const struct overlay layers = {.lower = "/proc", .upper = "/dev/upper", .work = "/dev/work"};
    const char *option;
    *step = "overlay namespace";
    if (unshare(CLONE_NEWNS) < 0)
        return -1;
    *step = "overlay layers";
    if (sys_move_mount(lower, "", AT_FDCWD, "/proc", SYS_MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        sys_move_mount(holder, "", AT_FDCWD, "/dev", SYS_MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -1;
    *step = "overlay";
    return overlay_mount(&layers, attributes, &option);
}

enum { SOCKET, LOWER, HOLDER, KEPT }; /* in the place of /dev/null */

static _Noreturn void child_main(int socket, int lower, int holder, uint64_t attributes)
{
    struct control_reply reply = {0};
    const char *step = "overlay descriptors";
    title_set("alcove-overlay");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* a disk may hold us for long: the session's sockets and mounts must not last as long as we */
    int mount = dup2(socket, SOCKET) < 0 || dup2(lower, LOWER) < 0 || dup2(holder, HOLDER) < 0 ||
                sys_close_range(KEPT, ~0U, 0) < 0 ? -1 : mount_staged(LOWER, HOLDER, attributes, &step);
    if (mount < 0) {
        reply.error = errno;
        snprintf(reply.step, sizeof reply.step, "%s", step);
    }
    _exit(message_send(SOCKET, &reply, sizeof reply, &mount, mount < 0 ? 0 : 1) < 0);
}

static int await_mount(int socket, struct control_reply *reply)
{
    struct pollfd polled = {.fd = socket, .events = POLLIN};
    int mount, count = 1;
    if (poll(&polled, 1, MADE_WITHIN_MS) != 1) {
        reply->error = ETIMEDOUT;
        return -1;
    }
    int whole = message_receive(socket, reply, sizeof *reply, &mount, &count) == (ssize_t)sizeof *reply;
    if (whole && count)
        return mount;
    if (count)
        close(mount);
    if (!whole || !*reply->step) /* it died, or there was no descriptor free for its mount */
        *reply = (struct control_reply){.error = ECONNRESET, .step = "overlay"};
    return -1;
}

/* Layers are named by paths, so they have to lie somewhere for a moment. That is in a mount namespace of a child's: in
 * the cell's own a guest would find them there. The child has our pid namespace and is no more dumpable than we are.
 * Nobody waits for its end, which may hang with its disk: control_serve reaps it. */
int overlay_aside(int lower, int holder, uint64_t attributes, char *step, size_t room)
{
    struct control_reply reply = {.step = "overlay"};
    int sockets[2], mount = -1;
    snprintf(step, room, "%s", reply.step);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return -1;
    pid_t child = fork();
    reply.error = errno;
    if (child == 0)
        child_main(sockets[1], lower, holder, attributes);
    close(sockets[1]);
    if (child > 0) {
        mount = await_mount(sockets[0], &reply);
        kill(child, SIGKILL);
    }
    close(sockets[0]);
    snprintf(step, room, "%s", reply.step);
    errno = reply.error;
    return mount;
}
