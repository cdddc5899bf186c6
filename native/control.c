/* The warden after provisioning: attaches, keeps pipes drained that background children still hold, starts further
 * spawners, and ends everything when one of its own dies or the owner says so (SIGTERM). */
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { FIRST_CLIENT = 3, DRAINS = 512, SPAWNERS = 4, DRAIN_PAUSE_MS = 10, ENDS_WITHIN_MS = 500 };
enum { MOST_COUNTED = 1 << 15, MOST_TOLD = 1 << 10 /* of those that keep a cell from ending */ };

struct door {
    int fds[DRAINS > (int)CLIENTS ? DRAINS : (int)CLIENTS];
    int count, room;
};

static struct door clients = {.room = CLIENTS}, drains = {.room = DRAINS};
static pid_t more_spawners[SPAWNERS];

static void drop(struct door *door, int index)
{
    freezer_forget(door->fds[index]);
    close(door->fds[index]);
    memmove(door->fds + index, door->fds + index + 1, (size_t)(--door->count - index) * sizeof *door->fds);
}

/* A bound, so that nobody can fill our table: the oldest gives way, but none that holds the processes still, since its
 * owner may be copying their files. */
static void add(struct door *door, int fd)
{
    int oldest = 0;
    while (oldest < door->count && freezer_has(door->fds[oldest]))
        oldest++;
    if (oldest == door->room) {
        close(fd);
        return;
    }
    if (door->count == door->room)
        drop(door, oldest);
    door->fds[door->count++] = fd;
}

/* ---- the end ---- */

/* 0 stands for a child that has been reaped: its number may be somebody else's by now. */
static void kill_child(pid_t child, int number)
{
    if (child > 0)
        kill(child, number);
}

static void await_child(pid_t *child)
{
    while (*child > 0 && waitpid(*child, NULL, __WALL) < 0 && errno == EINTR)
        ;
    *child = 0;
}

static void signal_spawners(const struct warden *warden, int number)
{
    kill_child(warden->spawner, number);
    for (int i = 0; i < SPAWNERS; i++)
        kill_child(more_spawners[i], number);
}

/* PID 1's death kills every process of the cell. It completes once the spawners have reaped theirs: those that stand
 * still because the cell seemed empty go on where it was not. */
static void end_cell(struct warden *warden)
{
    if (warden->init <= 0)
        return;
    struct pollfd init = {.fd = sys_pidfd_open(warden->init, 0), .events = POLLIN};
    kill(warden->init, SIGKILL);
    freezer_release();
    if (poll(&init, 1, ENDS_WITHIN_MS) != 1)
        signal_spawners(warden, SIGCONT);
    close(init.fd);
    await_child(&warden->init);
}

/* All but ourselves, and a child that makes an overlay, which may hang with its disk. */
static void end_all(struct warden *warden)
{
    end_cell(warden);
    signal_spawners(warden, SIGKILL);
    await_child(&warden->spawner);
    for (int i = 0; i < SPAWNERS; i++)
        await_child(&more_spawners[i]);
}

static _Noreturn void end(struct warden *warden)
{
    close(warden->control);
    end_all(warden);
    _exit(0);
}

static void reap(struct warden *warden)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0) {
        for (int i = 0; i < SPAWNERS; i++)
            if (more_spawners[i] == pid)
                more_spawners[i] = 0;
        if (pid == warden->init)
            warden->init = 0;
        else if (pid == warden->spawner)
            warden->spawner = 0;
        else
            continue;
        end(warden);
    }
}

/* ---- requests ---- */

/* Until SIGCONT it begins no exec. One that is dead is forgotten. */
static void stop(pid_t *spawner)
{
    int status = 0;
    if (*spawner <= 0)
        return;
    kill(*spawner, SIGSTOP);
    while (waitpid(*spawner, &status, WUNTRACED | __WALL) < 0 && errno == EINTR)
        ;
    if (!WIFSTOPPED(status))
        *spawner = 0;
}

static void stop_spawners(struct warden *warden)
{
    stop(&warden->spawner);
    if (!warden->spawner)
        end(warden);
    for (int i = 0; i < SPAWNERS; i++)
        stop(&more_spawners[i]);
}

/* Ends the cell if nothing is in it, so that no exec can begin in between; a request that was sent and never read tells
 * its caller so. Spawners that stand still reap nothing: what is dead counts too. */
static const char *end_empty(struct warden *warden, struct plan_cursor rest, struct control_reply *reply)
{
    errno = EBUSY;
    if (freezer_holds())
        return "frozen";
    stop_spawners(warden);
    struct census census = census_take(MOST_TOLD);
    if (census.all) {
        signal_spawners(warden, SIGCONT);
        reply->processes = census.processes;
        reply->execs = census.execs;
        errno = EBUSY;
        return "processes";
    }
    const char *step = settle_mounts(rest);
    if (*step) {
        int error = errno;
        signal_spawners(warden, SIGCONT);
        errno = error;
        return step;
    }
    end_cell(warden);
    return "";
}

static void status(const struct op *op, struct control_reply *reply)
{
    struct census census = op->n0 ? (struct census){0} : census_take(MOST_COUNTED);
    reply->processes = census.processes;
    reply->execs = census.execs;
    reply->ticks = census.ticks;
    reply->frozen = (uint32_t)freezer_holds();
    reply->frozen_ns = freezer_time(op->v0);
}

static const char *spawn_spawner(struct warden *warden, const struct op *op, int listener)
{
    int slot = 0, sockets[2];
    while (slot < SPAWNERS && more_spawners[slot])
        slot++;
    errno = EBUSY;
    if (freezer_holds())
        return "frozen"; /* where it is born nothing runs: it would never be ready */
    errno = EAGAIN;
    if (slot == SPAWNERS || listener < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return "spawner";
    pid_t pid = fork();
    if (pid == 0) {
        title_set("alcove-spawner");
        close(sockets[0]);
        enter_cgroups(&warden->cgroups, 1);
        spawner_enter(warden->plan, sockets[1], warden->host_proc, op->n0, warden->cell_userns,
                      warden->cell_cgroupns);
        message_send(sockets[1], "r", 1, NULL, 0);
        spawner_serve(listener, -1);
    }
    close(sockets[1]);
    int namespaces[3] = {warden->view.cell_mountns, warden->cell_pidns, warden->cell_netns};
    int none = 0;
    char byte = 0;
    if (pid > 0 && message_send(sockets[0], "e", 1, namespaces, 3) == 0)
        message_receive(sockets[0], &byte, 1, NULL, &none);
    close(sockets[0]);
    if (byte != 'r')
        return "spawner";
    more_spawners[slot] = pid;
    return "";
}

static const char *serve_attach(struct warden *warden, int client, const struct op *op, struct plan_cursor *rest,
                                const int *fds, int count)
{
    struct op holder;
    errno = EINVAL;
    if ((op->flags & TREE_COW) && (plan_next(rest, &holder) != 1 || holder.kind != OP_TREE || count == 1))
        return "request";
    return attach(&warden->view, op, &holder, fds, count, client);
}

/* What it keeps of the descriptors, it takes out of fds. */
static void answer(struct warden *warden, int client, const struct op *op, struct plan_cursor *rest, int *fds,
                   int count)
{
    struct control_reply reply = {0};
    const char *step = "";
    int passed[MESSAGE_FDS], passing = 0; /* sockets that go back with the reply */
    errno = 0;
    if (op->kind == OP_ATTACH)
        step = serve_attach(warden, client, op, rest, fds, count);
    else if (op->kind == OP_STATUS)
        status(op, &reply);
    else if (op->kind == OP_FREEZE)
        step = freezer_hold(client, op->n0 != 0);
    else if (op->kind == OP_THAW)
        freezer_thaw();
    else if (op->kind == OP_SPAWNER)
        step = spawn_spawner(warden, op, count ? fds[0] : -1);
    else if (op->kind == OP_DRAIN)
        for (int i = 0; i < count; i++) {
            add(&drains, fds[i]);
            fds[i] = -1;
        }
    else if (op->kind == OP_NETWORK)
        step = network_serve(rest, passed, &passing);
    else if (op->kind == OP_END && op->n0)
        step = end_empty(warden, *rest, &reply);
    else if (op->kind != OP_END)
        step = "request";
    if (op->kind == OP_FREEZE && !*step)
        return; /* answered once they stand still */
    if (*step) {
        reply.error = errno ? errno : EINVAL;
        snprintf(reply.step, sizeof reply.step, "%s", step);
    }
    int ended = op->kind == OP_END && !*step;
    if (ended)
        end_all(warden);
    message_send(client, &reply, sizeof reply, passed, passing);
    network_sent(passed, passing);
    if (ended)
        _exit(0); /* the caller removes what is left of the session while our mounts come down */
}

/* 0 when the client is gone, or speaks another language. */
static int serve_client(struct warden *warden, int client)
{
    static char data[16384];
    int fds[MESSAGE_FDS], count = MESSAGE_FDS;
    ssize_t size = message_receive(client, data, sizeof data, fds, &count);
    if (size < 0 && errno == EAGAIN)
        return 1;
    struct plan request = {data, size > 0 ? (size_t)size : 0};
    struct plan_cursor cursor = plan_begin(&request);
    struct op op;
    int good = size > 0 && plan_check(&request) == 0 && plan_next(&cursor, &op) == 1;
    if (good)
        answer(warden, client, &op, &cursor, fds, count);
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return good;
}

/* ---- pipes that outlive their command ---- */

/* A background child must not die of a closed pipe. A pause between reads bounds what a flood can cost us. */
static void drain_some(const struct pollfd *polled)
{
    static char sink[65536];
    for (int i = drains.count - 1; i >= 0; i--)
        if (polled[i].revents && read(drains.fds[i], sink, sizeof sink) == 0)
            drop(&drains, i);
}

static long now_ms(void)
{
    return (long)(now_ns() / 1000000);
}

void control_serve(struct warden *warden)
{
    static struct pollfd polled[FIRST_CLIENT + CLIENTS + DRAINS];
    sigset_t all;
    sigfillset(&all);
    int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        end(warden);
    reap(warden);
    for (long quiet_until = 0;;) {
        long pause = quiet_until - now_ms();
        int draining = pause <= 0, count = 0;
        polled[count++] = (struct pollfd){.fd = signals, .events = POLLIN};
        polled[count++] = (struct pollfd){.fd = warden->control, .events = POLLIN};
        int timeout = drains.count && !draining ? (int)pause : -1;
        polled[count++] = (struct pollfd){.fd = freezer_events(&timeout), .events = POLLPRI};
        for (int i = 0; i < clients.count; i++)
            polled[count++] = (struct pollfd){.fd = clients.fds[i], .events = POLLIN};
        int first_drain = count;
        for (int i = 0; i < drains.count; i++)
            polled[count++] = (struct pollfd){.fd = draining ? drains.fds[i] : -1, .events = POLLIN};
        int ready = poll(polled, (nfds_t)count, timeout);
        freezer_look();
        if (ready <= 0)
            continue;
        struct signalfd_siginfo info;
        while (polled[0].revents && read(signals, &info, sizeof info) > 0)
            if (info.ssi_signo == SIGTERM)
                end(warden);
        if (polled[0].revents)
            reap(warden);
        int before = drains.count;
        if (draining && before) {
            drain_some(polled + first_drain);
            for (int i = first_drain; i < count; i++)
                if (polled[i].revents)
                    quiet_until = now_ms() + DRAIN_PAUSE_MS;
        }
        for (int i = clients.count - 1; i >= 0; i--)
            if (polled[FIRST_CLIENT + i].revents && !serve_client(warden, clients.fds[i]))
                drop(&clients, i);
        if (polled[1].revents) {
            int client = accept4(warden->control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (client >= 0)
                add(&clients, client);
        }
    }
}
