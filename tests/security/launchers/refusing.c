/* Stands in for the launcher: installs a filter under which one system call fails with one errno, then executes the
 * real one. What and which is in a file beside it: "NUMBER ERRNO PATH". */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment)
{
    char path[4096] = "", text[4096] = "", real[4096] = "";
    unsigned number, error;
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 8);
    if (argc < 1 || size < 0)
        return 3;
    strcpy(path + size, ".conf");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0 || sscanf(text, "%u %u %4095s", &number, &error, real) != 3)
        return 3;
    close(fd);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return 3;
    execve(real, argv, environment);
    return 3;
}
