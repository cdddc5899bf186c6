/* The warden after provisioning: attaches, keeps pipes drained that background children still hold, starts further
 * spawners, and ends everything when one of its own dies or the owner says so (SIGTERM). */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

enum { CLIENTS = 64, DRAINS = 512, SPAWNERS = 4, DRAIN_PAUSE_MS = 10 };

struct door {
    int fds[DRAINS > CLIENTS ? DRAINS : CLIENTS];
    int count, room;
};

static struct door clients = {.room = CLIENTS}, drains = {.room = DRAINS};
static pid_t more_spawners[SPAWNERS];

static void add(struct door *door, int fd)
{
    if (door->count == door->room) { /* the oldest gives way: a bound, so that nobody can fill our table */
        close(door->fds[0]);
        memmove(door->fds, door->fds + 1, (size_t)--door->count * sizeof *door->fds);
    }
    door->fds[door->count++] = fd;
}

static void drop(struct door *door, int index)
{
    close(door->fds[index]);
    memmove(door->fds + index, door->fds + index + 1, (size_t)(--door->count - index) * sizeof *door->fds);
}

/* ---- the end ---- */

/* PID 1's death kills every process of the cell. It completes once the spawners, still alive, have reaped theirs. */
static void end_cell(struct warden *warden)
{
    kill(warden->init, SIGKILL);
    while (waitpid(warden->init, NULL, __WALL) < 0 && errno == EINTR)
        ;
}

static _Noreturn void end(struct warden *warden)
{
    close(warden->control);
    end_cell(warden);
    kill(warden->spawner, SIGKILL);
    for (int i = 0; i < SPAWNERS; i++)
        if (more_spawners[i] > 0)
            kill(more_spawners[i], SIGKILL);
    while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
        ;
    _exit(0);
}

static void reap(struct warden *warden)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0) {
        if (pid == warden->init || pid == warden->spawner)
            end(warden);
        for (int i = 0; i < SPAWNERS; i++)
            if (more_spawners[i] == pid)
                more_spawners[i] = 0;
    }
}

/* ---- requests ---- */

/* Neither what is dead but not yet reaped nor a monitor, which ends with its command. */
static int counts(int proc, const char *pid)
{
    char path[300], stat[128] = "";
    snprintf(path, sizeof path, "%s/stat", pid);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
    if (fd >= 0)
        close(fd);
    const char *end = got > 0 ? strrchr(stat, ')') : NULL;
    return end && end[1] && end[2] != 'Z' && end[2] != 'X' && !strstr(stat, "(alcove-exec)");
}

static uint32_t count_processes(void)
{
    uint32_t count = 0;
    struct processes processes;
    processes_begin(&processes);
    for (const char *pid; (pid = processes_next(&processes));)
        if (strcmp(pid, "1") != 0)
            count += (uint32_t)counts(processes.proc, pid);
    return count;
}

static const char *spawn_spawner(struct warden *warden, const struct op *op, int listener)
{
    int slot = 0, sockets[2];
    while (slot < SPAWNERS && more_spawners[slot])
        slot++;
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

static void answer(struct warden *warden, int client, const struct op *op, struct plan_cursor *rest, const int *fds,
                   int count)
{
    struct control_reply reply = {0};
    const char *step = "";
    int passed[MESSAGE_FDS], passing = 0; /* sockets that go back with the reply */
    errno = 0;
    if (op->kind == OP_ATTACH)
        step = attach(&warden->view, op, count ? fds[0] : -1);
    else if (op->kind == OP_STATUS)
        reply.value = count_processes();
    else if (op->kind == OP_SPAWNER)
        step = spawn_spawner(warden, op, count ? fds[0] : -1);
    else if (op->kind == OP_DRAIN)
        for (int i = 0; i < count; i++)
            add(&drains, dup(fds[i]));
    else if (op->kind == OP_NETWORK)
        step = network_serve(rest, passed, &passing);
    else if (op->kind == OP_SETTLE)
        step = settle_mounts(*rest);
    else if (op->kind == OP_END)
        end_cell(warden);
    else
        step = "request";
    if (*step) {
        reply.error = errno ? errno : EINVAL;
        snprintf(reply.step, sizeof reply.step, "%s", step);
    }
    message_send(client, &reply, sizeof reply, passed, passing);
    network_sent(passed, passing);
    if (op->kind == OP_END)
        end(warden); /* the caller removes the session's files while our mounts come down */
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
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void control_serve(struct warden *warden)
{
    static struct pollfd polled[2 + CLIENTS + DRAINS];
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
        for (int i = 0; i < clients.count; i++)
            polled[count++] = (struct pollfd){.fd = clients.fds[i], .events = POLLIN};
        int first_drain = count;
        for (int i = 0; i < drains.count; i++)
            polled[count++] = (struct pollfd){.fd = draining ? drains.fds[i] : -1, .events = POLLIN};
        int ready = poll(polled, (nfds_t)count, drains.count && !draining ? (int)pause : -1);
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
            if (polled[2 + i].revents && !serve_client(warden, clients.fds[i]))
                drop(&clients, i);
        if (polled[1].revents) {
            int client = accept4(warden->control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (client >= 0)
                add(&clients, client);
        }
    }
}
