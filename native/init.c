/* PID 1 of the cell. It makes the cell's own /proc (which shows the pid namespace of whoever opens it), then
 * reaps, and tells the spawner of every orphan it reaped: where a guest killed an exec's monitor, this is how the
 * command's true status is still known. Nothing else: three system calls and a reply. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static void allow_three(void)
{
#ifndef ALCOVE_OFF_SECCOMP
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_rt_sigtimedwait),
        ALLOW(SYS_wait4),
        ALLOW(SYS_write),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(1); /* nothing is left to report with; the warden sees the end of our socket */
#endif
}

void init_main(int host_proc, int socket, int reaped)
{
    title_set("alcove-init");
    int fds[2] = {open_namespace(host_proc, "pid"), mount_proc()};
    CHECK(fds[1], "mount", "proc");
    CHECK(message_send(socket, "i", 1, fds, 2), "socket", "init");

    drop_capabilities(0, "init");
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs", "init");
    /* the warden gone: so is the cell. Set last, since a change of credentials clears it (prctl(2)) */
    CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl", "init");
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    CHECK(dup2(reaped, 0), "dup", "init");
    CHECK(dup2(socket, 1), "dup", "init");
    CHECK(sys_close_range(2, ~0U, 0), "close_range", "init");
    allow_three();
    if (write(1, "c", 1) != 1) /* confined: the warden lets no guest run before it has read this */
        _exit(1);

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (;;) {
        int32_t record[2];
        while ((record[0] = wait4(-1, &record[1], WNOHANG | __WALL, NULL)) > 0)
            (void)!write(0, record, sizeof record); /* a full pipe: nobody is waiting for it */
        sigwaitinfo(&set, NULL);
    }
}
