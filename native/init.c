/* PID 1 of the cell. It makes the cell's network and its /proc (which shows the pid namespace of whoever opens it),
 * then reaps, and tells the spawner of every orphan it reaped: where a guest killed an exec's monitor, this is how the
 * command's true status is still known. Nothing else: three system calls and a reply. */
#include "session.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(fd, "loopback", "socket");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request), "loopback", "up");
    close(fd);
}

/* Until there is a plan, with id maps and a mount namespace for us. */
static void enter(int socket)
{
    int mountns, count = 1;
    char byte = 0;
    if (message_receive(socket, &byte, 1, &mountns, &count) != 1 || byte != 'm' || count != 1)
        _exit(1); /* the warden has reported why */
    CHECK(setns(mountns, CLONE_NEWNS), "setns", "init");
    settle_ids("init");
    die_with_parent("init");
}

void init_main(int host_proc, int socket, int reaped, int network)
{
    title_set("alcove-init");
    die_with_parent("init");
    if (network) {
        CHECK(unshare(CLONE_NEWNET), "unshare", "net");
        loopback_up();
    }
    enter(socket);
    int fds[3] = {open_namespace(host_proc, "pid"), open_namespace(host_proc, "net"), mount_proc()};
    CHECK(fds[2], "mount", "proc");
    CHECK(message_send(socket, "i", 1, fds, 3), "socket", "init");

    drop_capabilities(0, "init");
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs", "init");
    die_with_parent("init"); /* the warden gone: so is the cell */
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    /* Until `enter` told the kernel, the warden's death did not end us. It has spoken since: from now on it does. */
    char byte = 0;
    int none = 0;
    if (message_receive(socket, &byte, 1, NULL, &none) != 1 || byte != 'a')
        _exit(1);
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
