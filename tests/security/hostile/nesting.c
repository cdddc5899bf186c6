/* nesting: every way into a namespace of one's own, by unshare, clone and clone3. Stays alive in the deepest one. */
#include "hostile.h"

#include <sched.h>
#include <stdint.h>
#include <sys/wait.h>

static const struct {
    const char *name;
    unsigned long flag;
} kinds[] = {{"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET},
             {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS},  {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80}};

static long born(long pid)
{
    if (pid == 0)
        _exit(0);
    if (pid > 0)
        waitpid((pid_t)pid, NULL, __WALL);
    return pid;
}

int main(void)
{
    char name[64];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct {
            uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
        } args = {.flags = kinds[i].flag, .exit_signal = SIGCHLD};
        snprintf(name, sizeof name, "clone-%s", kinds[i].name);
        if (kinds[i].flag != 0x80) /* there it would be a part of the exit signal */
            say(name, born(syscall(SYS_clone, kinds[i].flag | SIGCHLD, 0, 0, 0, 0)));
        snprintf(name, sizeof name, "clone3-%s", kinds[i].name);
        say(name, born(syscall(SYS_clone3, &args, sizeof args)));
        snprintf(name, sizeof name, "unshare-%s", kinds[i].name);
        say(name, unshare((int)kinds[i].flag));
    }
    stay();
}
