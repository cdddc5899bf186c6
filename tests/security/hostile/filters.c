/* filters KIND: a seccomp filter of the guest's own, over execve and getdents64: `errno`, `trace`, `kill`, `notify`
 * (with a listener), `tsync`. Stays alive under it. */
#include "hostile.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    unsigned action = !strcmp(argv[1], "trace")    ? SECCOMP_RET_TRACE
                      : !strcmp(argv[1], "kill")   ? SECCOMP_RET_KILL_PROCESS
                      : !strcmp(argv[1], "notify") ? SECCOMP_RET_USER_NOTIF
                                                   : SECCOMP_RET_ERRNO | EPERM;
    unsigned long flags = !strcmp(argv[1], "notify") ? 8 : !strcmp(argv[1], "tsync") ? 1 : 0;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getdents64, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    say("install", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
    stay();
}
