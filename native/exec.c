/* One exec is two processes: a monitor (a subreaper, so that double-forked children stay findable) and the command.
 * The monitor answers on the caller's own connection; that connection's end is the order to kill the whole tree. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <grp.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

enum {
    PASS_MS = 2,      /* between two sweeps of the tree */
    STOP_AFTER = 10,  /* sweeps, before the session is stopped for the rest of them */
    ALL_AFTER = 500,  /* sweeps, before everything in the session is killed: nobody waits for ever */
    MOST_KIN = 4096,
    REQUEST_FDS = 8,
    REQUEST_MS = 10000, /* from the connection to its request */
};

struct kin {
    pid_t pid, parent;
    int ours;
};

struct request {
    char data[1 << 16];
    size_t size;
    int fds[REQUEST_FDS], count;
};

struct command {
    struct plan plan;
    char **argv, **env, **fallback;
    const char *cwd, *user;
    int stdio[3], tty_master, tty;
};

static _Noreturn void answer(int connection, uint32_t outcome, int status, int step, int error)
{
    struct exec_message message = {.outcome = outcome, .status = status, .step = step, .error = error};
    send(connection, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    syscall(SYS_sched_yield); /* the caller first: our own end is nobody's concern */
    _exit(0);
}

/* ---- the request ---- */

static int load_body(const struct request *request, struct plan *plan, int *fds)
{
    struct op op;
    if (!plan_find(plan, OP_BODY, &op))
        return 0;
    struct stat found;
    int fd = *fds > 0 ? request->fds[--*fds] : -1;
    if (fd < 0 || fstat(fd, &found) < 0 || (uint64_t)found.st_size < op.v0)
        return -1;
    char *data = mmap(NULL, op.v0, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return -1;
    *plan = (struct plan){data, op.v0};
    return plan_check(plan);
}

static int load_stdio(const struct request *request, const struct op *op, struct command *command, int fds)
{
    for (int i = 0, taken = 0; i < 3; i++) {
        command->stdio[i] = -1;
        if (!(op->flags & (1U << i)))
            continue;
        if (taken == fds)
            return -1;
        command->stdio[i] = request->fds[taken++];
    }
    return 0;
}

static int load(const struct request *request, struct command *command)
{
    struct op op;
    int fds = request->count;
    command->plan = (struct plan){request->data, request->size};
    if (plan_check(&command->plan) < 0 || load_body(request, &command->plan, &fds) < 0)
        return -1;
    if (!plan_find(&command->plan, OP_ARGV, &op) || op.n0 == 0 || !(command->argv = plan_strings(&op)))
        return -1;
    if (!plan_find(&command->plan, OP_ENV, &op) || !(command->env = plan_strings(&op)))
        return -1;
    if (plan_find(&command->plan, OP_FALLBACK_ARGV, &op) && !(command->fallback = plan_strings(&op)))
        return -1;
    command->cwd = plan_find(&command->plan, OP_CWD, &op) ? op.s0 : NULL;
    command->user = plan_find(&command->plan, OP_USER, &op) ? op.s0 : NULL;
    plan_find(&command->plan, OP_STDIO, &op);
    return load_stdio(request, &op, command, fds);
}

/* ---- a terminal of the cell's own devpts; the caller gets the master ---- */

static int open_tty(struct command *command, int connection)
{
    struct op op;
    command->tty_master = -1;
    command->tty = plan_find(&command->plan, OP_TTY, &op);
    if (!command->tty)
        return 0;
    int unlock = 0, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return -1;
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return -1;
    struct winsize size = {.ws_row = (unsigned short)op.n0, .ws_col = (unsigned short)op.n1};
    ioctl(master, TIOCSWINSZ, &size);
    struct exec_message started = {.outcome = EXEC_STARTED};
    if (message_send(connection, &started, sizeof started, &master, 1) < 0)
        return -1;
    close(master);
    for (int i = 0; i < 3; i++)
        command->stdio[i] = slave;
    return 0;
}

/* ---- the command, between its birth and execve ---- */

static _Noreturn void stop(struct exec_slot *slot, int step)
{
    slot->error = errno;
    slot->step = step;
    _exit(125);
}

static void become(const char *user, struct exec_slot *slot)
{
    struct identity identity;
    if (identity_find(user, &identity) < 0)
        stop(slot, STEP_USER);
    if (identity.uid == getuid() && identity.gid == getgid())
        return;
    if (setgroups((size_t)identity.group_count, identity.groups) < 0 ||
        setresgid(identity.gid, identity.gid, identity.gid) < 0 ||
        setresuid(identity.uid, identity.uid, identity.uid) < 0)
        stop(slot, STEP_USER);
}

static void connect_stdio(const struct command *command, struct exec_slot *slot)
{
    int null = -1;
    for (int i = 0; i < 3; i++) {
        int from = command->stdio[i];
        if (from < 0 && null < 0)
            null = open("/dev/null", O_RDWR | O_CLOEXEC);
        /* the three targets are free: the spawner keeps /dev/null on them */
        if (dup2(from < 0 ? null : from, i) < 0)
            stop(slot, STEP_REQUEST);
    }
    if (command->tty && ioctl(0, TIOCSCTTY, 0) < 0)
        stop(slot, STEP_TTY);
#ifndef ALCOVE_OFF_CLOSEFDS
    sys_close_range(3, ~0U, 0);
#else
    for (int fd = 3; fd < 64; fd++)
        fcntl(fd, F_SETFD, 0);
#endif
}

static void say(const char *name, const char *what)
{
    char line[4352];
    int size = snprintf(line, sizeof line, "alcove: %.4096s: %s\n", name, what);
    (void)!write(2, line, (size_t)size);
}

/* PATH as execvp(3) reads it, but never through a shell: a file that is no program is told, not guessed at. */
static int exec_in_path(char **argv, char **env)
{
    const char *path = "/usr/bin:/bin";
    for (char **entry = env; *entry; entry++)
        if (strncmp(*entry, "PATH=", 5) == 0)
            path = *entry + 5;
    int error = ENOENT;
    for (const char *end; ; path = end + 1) {
        char file[4096];
        end = strchrnul(path, ':');
        int length = snprintf(file, sizeof file, "%.*s%s%s", (int)(end - path), path, end > path ? "/" : "", argv[0]);
        if (length < (int)sizeof file) {
            execve(file, argv, env);
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return errno;
            struct stat found;
            if (errno == EACCES && !(stat(file, &found) == 0 && S_ISDIR(found.st_mode)))
                error = EACCES; /* perhaps another directory has one that may be run */
        }
        if (!*end)
            return error;
    }
}

static _Noreturn void run(const struct command *command, const struct op *open_files, struct exec_slot *slot)
{
    sigset_t none;
    sigemptyset(&none);
    slot->command = getpid(); /* before the guest's first instruction, which may be the monitor's death */
    setsid();
    connect_stdio(command, slot);
    if (open_files->kind) {
        struct rlimit limit = {open_files->v0, open_files->v1};
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            stop(slot, STEP_REQUEST);
    }
    if (command->user)
        become(command->user, slot);
    if (command->cwd && chdir(command->cwd) < 0)
        stop(slot, STEP_CWD);
    umask(022);
    sigprocmask(SIG_SETMASK, &none, NULL);

    const char *name = command->argv[0];
    int error;
    if (strchr(name, '/')) {
        execve(name, command->argv, command->env);
        error = errno;
    } else {
        error = exec_in_path(command->argv, command->env);
        if (error == ENOENT && command->fallback) {
            execve(command->fallback[0], command->fallback, command->env);
            error = errno;
        }
    }
    if (error == E2BIG || error == ENOMEM || error == EAGAIN) {
        errno = error;
        stop(slot, STEP_EXEC);
    }
    int missing = error == ENOENT || error == ENOTDIR;
    say(name, missing ? (strchr(name, '/') ? "no such file, or its interpreter is missing" : "command not found")
                      : strerror(error));
    _exit(missing ? 127 : 126);
}

/* ---- the monitor ---- */

static void nothing(int signal)
{
    (void)signal;
}

/* Reaps what there is; 1 while children are left. The command's own status goes to *status. */
static int reap(pid_t command, int *status, int *ended)
{
    pid_t pid;
    int one;
    while ((pid = waitpid(-1, &one, WNOHANG | __WALL)) > 0)
        if (pid == command) {
            *status = one;
            *ended = 1;
        }
    return pid == 0;
}

static int read_file(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t used = 0;
    ssize_t got;
    while (used < room - 1 && (got = read(fd, text + used, room - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    text[used] = 0;
    return (int)used;
}

/* Kills the monitor's direct children: none of them can be another process's pid, since only we reap them. What they
 * leave behind becomes ours in turn. */
static void kill_children(void)
{
    static char list[1 << 16];
    if (read_file("/proc/thread-self/children", list, sizeof list) < 0) {
        kill(-1, SIGKILL); /* CONFIG_PROC_CHILDREN is off: all or nothing */
        return;
    }
    const char *at = list;
    for (pid_t pid; (pid = (pid_t)number_read(&at)) > 0;)
        kill(pid, SIGKILL);
}

/* One look at the parents of every process of the cell; the number of them. */
static int look(struct kin *kin)
{
    int count = 0;
    struct processes processes;
    processes_begin(&processes);
    for (const char *pid; (pid = processes_next(&processes));) {
        char path[64], stat[512];
        snprintf(path, sizeof path, "/proc/%s/stat", pid);
        const char *end = read_file(path, stat, sizeof stat) > 0 ? strrchr(stat, ')') : NULL;
        if (!end || strlen(end) < 5 || count == MOST_KIN)
            continue;
        end += 4; /* the state lies between */
        pid_t parent = (pid_t)number_read(&end);
        kin[count++] = (struct kin){(pid_t)number_read(&pid), parent, 0};
    }
    return count;
}

/* Kills every descendant at once: a deep tree would otherwise take a sweep for each of its levels. */
static void kill_descendants(void)
{
    static struct kin kin[MOST_KIN];
    int count = look(kin), more = 1;
    pid_t self = getpid();
    while (more) {
        more = 0;
        for (int i = 0; i < count; i++) {
            int ours = kin[i].parent == self;
            for (int j = 0; j < count && !ours; j++)
                ours = kin[j].ours && kin[j].pid == kin[i].parent;
            if (ours && !kin[i].ours)
                kin[i].ours = more = 1;
        }
    }
    for (int i = 0; i < count; i++)
        if (kin[i].ours)
            kill(kin[i].pid, SIGKILL);
}

static void kill_tree(pid_t command, int *status, int *ended, const sigset_t *wake)
{
    struct timespec pause = {0, PASS_MS * 1000000L};
    int stopped = 0;
    for (int pass = 1; ; pass++) {
        kill_children();
        if (!reap(command, status, ended))
            break;
        if (pass >= STOP_AFTER) { /* it forks faster than we look: hold everything still for a moment */
            kill(-1, SIGSTOP);
            stopped = 1;
        }
        if (pass > 1)
            kill_descendants();
        if (pass >= ALL_AFTER)
            kill(-1, SIGKILL);
        ppoll(NULL, 0, &pause, wake);
    }
    if (stopped)
        kill(-1, SIGCONT);
}

static _Noreturn void watch(int connection, pid_t command, struct exec_slot *slot)
{
    sigset_t wake;
    sigfillset(&wake);
    sigdelset(&wake, SIGCHLD);
    int status = 0, ended = 0;
    struct pollfd caller = {.fd = connection, .events = POLLIN};
    for (;;) {
        reap(command, &status, &ended);
        if (ended) {
            /* perhaps of its caller's death, by a pipe that nobody reads any more: then what it began dies of it too */
            if (poll(&caller, 1, 0) > 0 && caller.revents & POLLHUP)
                kill_tree(command, &status, &ended, &wake);
            break;
        }
        if (ppoll(&caller, 1, NULL, &wake) > 0) { /* the order to kill, or the caller is gone */
            char order;
            (void)!recv(connection, &order, 1, MSG_DONTWAIT); /* unread, it would turn our answer into a reset */
            kill_tree(command, &status, &ended, &wake);
            break;
        }
    }
    if (slot->step)
        answer(connection, EXEC_FAILED, status, slot->step, slot->error);
    answer(connection, EXEC_EXITED, status, STEP_NONE, 0);
}

static void receive(int connection, struct request *request)
{
    struct pollfd caller = {.fd = connection, .events = POLLIN};
    request->count = REQUEST_FDS;
    ssize_t size = -1;
    if (poll(&caller, 1, REQUEST_MS) == 1)
        size = message_receive(connection, request->data, sizeof request->data, request->fds, &request->count);
    if (size <= 0)
        _exit(0); /* the caller went away, or never said what it wants */
    request->size = (size_t)size;
}

void exec_monitor(int connection, const struct op *open_files, struct exec_slot *slot)
{
    static struct request request;
    struct command command = {0};
    title_set("alcove-exec");
    /* every signal but KILL and STOP stays blocked: a guest's kill(-1, SIGTERM) is not for us */
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGCHLD, &action, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    receive(connection, &request);
    if (load(&request, &command) < 0)
        answer(connection, EXEC_FAILED, 0, STEP_REQUEST, EINVAL);
    if (open_tty(&command, connection) < 0)
        answer(connection, EXEC_FAILED, 0, STEP_TTY, errno);
    pid_t pid = vfork();
    if (pid == 0)
        run(&command, open_files, slot);
    if (pid < 0)
        answer(connection, EXEC_FAILED, 0, STEP_FORK, errno);
    for (int i = 0; i < request.count; i++)
        close(request.fds[i]); /* the command's end of its pipes must be the command's alone */
    if (command.tty)
        close(command.stdio[0]);
    watch(connection, pid, slot);
}
