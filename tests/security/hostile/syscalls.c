/* syscalls MODE NUMBER...: each call with harmless arguments (all ones), "NUMBER ok" or "NUMBER ERRNO".
 *
 * MODE `stopped`: under a filter of our own that lets nothing be carried out: SECCOMP_RET_TRACE without a tracer
 * answers ENOSYS, and yields to any filter that refuses. So what says anything else was refused by somebody else.
 * MODE `carried`: the calls are carried out, each in a child of its own. */
#include "hostile.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { CHECKED = 0x5ECC0DE };

static void stop_marked(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CHECKED, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        exit(2);
}

static void carry_out(long number, int answer)
{
    pid_t child = fork();
    if (child < 0)
        exit(2);
    if (child == 0) {
        alarm(5);
        long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
        int word = result == -1 ? errno : 0;
        (void)!write(answer, &word, sizeof word);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    int ends[2];
    if (argc < 3 || pipe2(ends, O_NONBLOCK) < 0)
        return 2;
    int stopped = strcmp(argv[1], "stopped") == 0;
    if (stopped)
        stop_marked();
    for (int i = 2; i < argc; i++) {
        long number = strtol(argv[i], NULL, 0);
        int word = -1;
        if (stopped) {
            long result = syscall(number, 0L, 0L, 0L, 0L, 0L, (long)CHECKED);
            word = result == -1 ? errno : 0;
        } else {
            carry_out(number, ends[1]);
            (void)!read(ends[0], &word, sizeof word);
        }
        if (word > 0)
            errno = word;
        if (word < 0)
            printf("%s killed\n", argv[i]);
        else
            say(argv[i], word ? -1 : 0);
    }
    return 0;
}
