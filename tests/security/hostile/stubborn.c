/* stubborn HOW: a command that does not want to end. */
#include "hostile.h"

#include <sys/wait.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    for (int number = 1; number < 64; number++)
        signal(number, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    say("ready", 0);
    if (!strcmp(argv[1], "stops"))
        raise(SIGSTOP);
    if (!strcmp(argv[1], "stops-all"))
        for (;;)
            kill(-1, SIGSTOP);
    if (!strcmp(argv[1], "leaves")) /* a double fork, each in a session of its own */
        for (int i = 0; i < 8; i++)
            if (fork() == 0) {
                setsid();
                if (fork() == 0) {
                    setsid();
                    for (;;)
                        pause();
                }
                _exit(0);
            }
    if (!strcmp(argv[1], "runs-ahead")) /* always a new process, the old one gone: a loop by pid never catches it */
        for (;;)
            if (fork() > 0)
                _exit(0);
    if (!strcmp(argv[1], "vforks") && vfork() == 0)
        for (;;)
            pause();
    for (;;)
        pause();
}
