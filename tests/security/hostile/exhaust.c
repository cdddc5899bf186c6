/* exhaust WHAT [COUNT]: as much of one thing as there is; "got N", then stays alive with it. */
#include "hostile.h"

#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { MIB = 1 << 20 };

static char block[MIB];

static void *sleeps(void *argument)
{
    for (;;)
        pause();
    return argument;
}

/* ---- processes: nobody dies, so that the host can count ---- */

static int fork_one(int apart)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (apart)
            setsid();
        for (int fd = 0; fd < 3; fd++)
            close(fd);
        for (;;)
            pause();
    }
    return pid < 0 ? -1 : 0;
}

static int thread_one(void)
{
    static pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    errno = pthread_create(&thread, &attributes, sleeps, NULL);
    return errno ? -1 : 0;
}

static int vfork_one(void)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/sleep", "sleep", "100000", (char *)NULL);
        _exit(127);
    }
    return pid < 0 ? -1 : 0;
}

/* ---- memory, a MiB at a time ---- */

static int heap_one(void)
{
    char *page = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED)
        return -1;
    memset(page, 1, MIB);
    return 0;
}

static int file_one(const char *path)
{
    static int fd = -1;
    if (fd < 0)
        fd = *path ? open(path, O_CREAT | O_WRONLY, 0600) : memfd_create("hostile", 0);
    if (fd < 0)
        return -1;
    ssize_t wrote = write(fd, block, MIB);
    if (wrote >= 0 && wrote < MIB)
        errno = ENOSPC;
    return wrote < MIB ? -1 : 0;
}

static int segment_one(void)
{
    int id = shmget(IPC_PRIVATE, MIB, IPC_CREAT | 0600);
    char *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
    if (at == (void *)-1)
        return -1;
    memset(at, 1, MIB);
    return 0;
}

static int pipe_one(void)
{
    int ends[2];
    if (pipe2(ends, O_NONBLOCK) < 0)
        return -1;
    fcntl(ends[1], F_SETPIPE_SZ, MIB);
    while (write(ends[1], block, 65536) > 0)
        ;
    return 0;
}

static int socket_one(void)
{
    int ends[2], size = 8 * MIB;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) < 0)
        return -1;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    while (send(ends[0], block, 65536, 0) > 0)
        ;
    return 0;
}

/* Directory entries and inodes: kernel memory by the smallest means. */
static int entry_one(void)
{
    static int count;
    char name[64];
    snprintf(name, sizeof name, "/dev/shm/entry-%d", count++);
    int fd = open(name, O_CREAT | O_WRONLY, 0600);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

/* ---- tables ---- */

static int file_descriptor_one(void)
{
    return dup(0) < 0 ? -1 : 0;
}

static int inotify_one(void)
{
    return inotify_init1(0) < 0 ? -1 : 0;
}

static int timer_one(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    return timer_create(CLOCK_MONOTONIC, &event, &timer);
}

static int queue_one(void)
{
    static int count;
    char name[64];
    snprintf(name, sizeof name, "/hostile-%d", count++);
    struct mq_attr attributes = {.mq_maxmsg = 10, .mq_msgsize = 8192};
    return mq_open(name, O_CREAT | O_RDWR, 0600, &attributes) < 0 ? -1 : 0;
}

static int signal_one(void)
{
    static int blocked;
    if (!blocked) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        sigprocmask(SIG_BLOCK, &set, NULL);
        blocked = 1;
    }
    return sigqueue(getpid(), SIGRTMIN, (union sigval){0});
}

static int one(const char *what)
{
    if (!strcmp(what, "fork") || !strcmp(what, "setsid"))
        return fork_one(*what == 's');
    if (!strcmp(what, "thread"))
        return thread_one();
    if (!strcmp(what, "vfork"))
        return vfork_one();
    if (!strcmp(what, "heap"))
        return heap_one();
    if (!strcmp(what, "memfd"))
        return file_one("");
    if (!strcmp(what, "shm"))
        return file_one("/dev/shm/fill");
    if (!strcmp(what, "run"))
        return file_one("/run/fill");
    if (!strcmp(what, "segment"))
        return segment_one();
    if (!strcmp(what, "pipe"))
        return pipe_one();
    if (!strcmp(what, "socket"))
        return socket_one();
    if (!strcmp(what, "entry"))
        return entry_one();
    if (!strcmp(what, "descriptor"))
        return file_descriptor_one();
    if (!strcmp(what, "inotify"))
        return inotify_one();
    if (!strcmp(what, "timer"))
        return timer_one();
    if (!strcmp(what, "queue"))
        return queue_one();
    if (!strcmp(what, "signal"))
        return signal_one();
    exit(2);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    long most = argc > 2 ? atol(argv[2]) : 1L << 30, got = 0;
    memset(block, 1, sizeof block);
    while (got < most && one(argv[1]) == 0)
        got++;
    printf("got %ld\n", got);
    say("last", got < most ? -1 : 0);
    stay();
}
