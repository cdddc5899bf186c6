/* Who lives in the cell, and what they have used of the processors: from its own /proc, without a word of theirs. */
#include "session.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { PARENT = 4, USER_TIME = 14, TIMES = 4 }; /* fields of /proc/PID/stat (proc(5)), the state being the third */

/* The text of a field; an empty one where there are not so many. */
static const char *field(const char *state, int number)
{
    for (; number > 3 && *state; number--) {
        state += strcspn(state, " ");
        state += *state == ' ';
    }
    return state;
}

static void count(struct census *census, const char *state)
{
    const char *parent = field(state, PARENT), *time = field(state, USER_TIME);
    if (*state == 'Z' || *state == 'X')
        return; /* dead, but not yet reaped */
    if (number_read(&parent) == 0) { /* its parent is outside: a monitor, which ends with its command */
        census->execs++;
        return;
    }
    census->processes++;
    for (int i = 0; i < TIMES; i++) { /* its own, and that of the children that it has reaped */
        int64_t ticks = number_read(&time);
        census->ticks += ticks > 0 ? (uint64_t)ticks : 0;
    }
}

struct census census_take(uint32_t most)
{
    struct census census = {0};
    struct processes processes;
    processes_begin(&processes);
    for (const char *pid; census.all < most && (pid = processes_next(&processes));) {
        char path[300], stat[512] = "";
        if (strcmp(pid, "1") == 0)
            continue;
        census.all++; /* also one that cannot be read: nobody knows that it is gone */
        snprintf(path, sizeof path, "%s/stat", pid);
        int fd = openat(processes.proc, path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
        if (fd >= 0)
            close(fd);
        const char *end = got > 0 ? strrchr(stat, ')') : NULL;
        if (end && end[1])
            count(&census, end + 2);
    }
    processes_end(&processes);
    census.all += processes.filled < 0;
    return census;
}
