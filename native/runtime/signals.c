/* Sets are the kernel's, of 64 signals: a libc's own hides two of them. */
#include "runtime.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SET = sizeof(uint64_t), OURS = 0x04000000 /* SA_RESTORER */ };

struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

int sigaction(int number, const struct sigaction *restrict action, struct sigaction *restrict before)
{
    struct kernel_action new = {0}, old = {0};
    if (action) {
        new.handler = action->sa_handler;
        new.flags = (unsigned)action->sa_flags;
        memcpy(&new.mask, &action->sa_mask, SET);
#ifdef __x86_64__
        new.flags |= OURS;
        new.restorer = runtime_restore;
#endif
    }
    if (syscall(SYS_rt_sigaction, number, action ? &new : NULL, before ? &old : NULL, (long)SET) < 0)
        return -1;
    if (before) {
        *before = (struct sigaction){.sa_handler = old.handler, .sa_flags = (int)(old.flags & ~(unsigned long)OURS)};
        memcpy(&before->sa_mask, &old.mask, SET);
    }
    return 0;
}

int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict before)
{
    return (int)syscall(SYS_rt_sigprocmask, how, set, before, (long)SET);
}

int sigwaitinfo(const sigset_t *restrict set, siginfo_t *restrict info)
{
    return (int)syscall(SYS_rt_sigtimedwait, set, info, NULL, (long)SET);
}

int signalfd(int fd, const sigset_t *set, int flags)
{
    return (int)syscall(SYS_signalfd4, fd, set, (long)SET, flags);
}

int sigemptyset(sigset_t *set)
{
    memset(set, 0, sizeof *set);
    return 0;
}

int sigfillset(sigset_t *set)
{
    memset(set, 0xff, sizeof *set);
    return 0;
}

static int change(sigset_t *set, int number, int wanted)
{
    uint64_t mask, bit = 1ULL << (number - 1);
    memcpy(&mask, set, SET);
    mask = wanted ? mask | bit : mask & ~bit;
    memcpy(set, &mask, SET);
    return 0;
}

int sigaddset(sigset_t *set, int number)
{
    return change(set, number, 1);
}

int sigdelset(sigset_t *set, int number)
{
    return change(set, number, 0);
}
