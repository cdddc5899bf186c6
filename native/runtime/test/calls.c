/* The runtime by itself: relocation, errno, fork, vfork, signals, descriptors, memory. Prints what is wrong. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int wrong;

#define EXPECT(what)                                                                                                   \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            dprintf(1, "line %d: not %s (errno %d)\n", __LINE__, #what, errno);                                        \
            wrong = 1;                                                                                                 \
        }                                                                                                              \
    } while (0)

static const char *const table[] = {"relocated", "too"};
static volatile int handled;

static void handler(int number)
{
    handled = number;
}

static void errors(void)
{
    errno = 0;
    EXPECT(close(-1) == -1 && errno == EBADF);
    EXPECT(open("/nonexistent", O_RDONLY) == -1 && errno == ENOENT);
    EXPECT(strcmp(strerror(EACCES), "Permission denied") == 0);
    EXPECT(strcmp(strerror(200), "Unknown error 200") == 0);
    EXPECT(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
}

static __attribute__((noinline)) pid_t forked(int status)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(status);
    return pid;
}

/* The child calls what it likes on the stack that both use; the parent's return address must outlive that. */
static __attribute__((noinline)) void clobber(int depth)
{
    volatile char frame[256];
    memset((void *)(uintptr_t)frame, 0xcc, sizeof frame);
    if (depth > 0)
        clobber(depth - 1);
    (void)frame[0];
}

static __attribute__((noinline)) pid_t vforked(int status, volatile int *seen)
{
    pid_t pid = vfork();
    if (pid == 0) {
        clobber(8);
        *seen = getpid();
        _exit(status);
    }
    return pid;
}

static void births(void)
{
    int status = 0;
    pid_t pid = forked(7);
    EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    /* shared, for emulators that make a vfork a fork */
    volatile int *seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 20; i++) {
        pid = vforked(i, seen);
        EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == i && *seen == pid);
    }
    EXPECT(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
}

static void signals(void)
{
    struct sigaction action = {.sa_handler = handler}, before;
    sigset_t set, old;
    EXPECT(sigaction(SIGUSR1, &action, NULL) == 0);
    EXPECT(sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == handler);
    EXPECT(kill(getpid(), SIGUSR1) == 0 && handled == SIGUSR1); /* and the handler came back */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    EXPECT(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    EXPECT(kill(getpid(), SIGUSR2) == 0 && sigwaitinfo(&set, NULL) == SIGUSR2);
    EXPECT(sigprocmask(SIG_SETMASK, &old, &set) == 0);
    uint64_t mask;
    memcpy(&mask, &set, sizeof mask);
    EXPECT(mask == 1ULL << (SIGUSR2 - 1));
    sigfillset(&set);
    sigdelset(&set, 64);
    memcpy(&mask, &set, sizeof mask);
    EXPECT(mask == ~(1ULL << 63));
}

static void descriptors(void)
{
    int ends[2];
    char text[8] = "";
    struct stat found;
    EXPECT(pipe2(ends, O_CLOEXEC) == 0);
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    EXPECT(poll(&one, 1, 20) == 0);
    EXPECT(dprintf(ends[1], "%s", "word") == 4 && poll(&one, 1, -1) == 1);
    EXPECT(read(ends[0], text, sizeof text) == 4 && strcmp(text, "word") == 0);
    EXPECT(dup2(ends[0], ends[0]) == ends[0] && dup2(ends[0], 90) == 90 && fcntl(90, F_GETFD) == 0);
    EXPECT(dup2(91, 91) == -1 && errno == EBADF);
    EXPECT(fstat(90, &found) == 0 && S_ISFIFO(found.st_mode));
    EXPECT(stat("/", &found) == 0 && S_ISDIR(found.st_mode));
    char long_line[600] = "";
    memset(long_line, 'x', sizeof long_line - 1);
    EXPECT(dprintf(ends[1], "%s", long_line) == -1 && errno == EMSGSIZE);
}

static int zeroed(const char *bytes, size_t size)
{
    for (size_t i = 0; bytes && i < size; i++)
        if (bytes[i])
            return 0;
    return bytes != NULL;
}

static void memory(void)
{
    char *kept[40];
    for (size_t i = 0; i < 40; i++) {
        kept[i] = calloc(i * 50 + 1, 1);
        EXPECT((uintptr_t)kept[i] % 16 == 0 && zeroed(kept[i], i * 50 + 1));
        memset(kept[i], (int)i, i * 50 + 1);
    }
    for (size_t i = 0; i < 40; i++) {
        EXPECT(kept[i][0] == (char)i && kept[i][i * 50] == (char)i);
        free(kept[i]);
    }
    free(NULL);
    volatile size_t most = SIZE_MAX / 2; /* a compiler that sees it refuses, and one that sees no use leaves it out */
    void *volatile none = calloc(most, 3);
    EXPECT(none == NULL);
}

static __attribute__((noinline)) void smash(void)
{
    char small[8];
    volatile size_t size = 64; /* which a compiler would refuse to write */
    memset(small, 'x', size);
    dprintf(1, "%.4s\n", small);
}

int main(int argc, char **argv, char **env)
{
    EXPECT(strcmp(table[argc > 90], "relocated") == 0 && *argv[0] && env == argv + argc + 1);
    errors();
    births();
    signals();
    descriptors();
    memory();
    if (argc > 1 && strcmp(argv[1], "smash") == 0)
        smash(); /* ends it */
    if (argc > 1 && strcmp(argv[1], "constant") == 0)
        *(const char *volatile *)(uintptr_t)&table[1] = "written"; /* ends it: the page is sealed */
    if (!wrong)
        dprintf(1, "ok\n");
    return wrong;
}
