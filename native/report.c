#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

void report_ready(pid_t init, pid_t spawner)
{
    struct report report = {.ok = 1, .warden_pid = getpid(), .init_pid = init, .spawner_pid = spawner};
    send(FD_REPORT, &report, sizeof report, MSG_NOSIGNAL);
    close(FD_REPORT);
}

void fail(const char *step, const char *detail)
{
    struct report report = {.error = errno};
    snprintf(report.step, sizeof report.step, "%s", step);
    snprintf(report.detail, sizeof report.detail, "%s", detail ? detail : "");
    send(FD_REPORT, &report, sizeof report, MSG_NOSIGNAL);
    _exit(1);
}
