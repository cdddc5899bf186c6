/* What the hostile programs share: a line for each attempt ("name ok", or the errno's number), and staying alive so
 * that the host can look at what an attempt left in the process. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void say(const char *name, long result)
{
    if (result >= 0)
        printf("%s ok\n", name);
    else
        printf("%s %d\n", name, errno);
    fflush(stdout);
}

/* Says the pid, lets go of the output, and stays until somebody kills it. */
static inline void stay(void)
{
    printf("stays %d\n", (int)getpid());
    fflush(stdout);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    for (;;)
        pause();
}

#endif
