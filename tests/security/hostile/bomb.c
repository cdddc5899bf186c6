/* bomb KIND: processes that never stop making processes: `fork`, `setsid` (each in a session of its own), or `stop`
 * (which also stops every process that it can). The first one stays. */
#include "hostile.h"

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    printf("stays %d\n", (int)getpid());
    fflush(stdout);
    if (fork() > 0)
        for (;;)
            pause();
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        if (fork() == 0 && *argv[1] == 's')
            setsid();
        if (!strcmp(argv[1], "stop"))
            kill(-1, SIGSTOP);
    }
}
