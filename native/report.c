#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

static int setup = FD_SETUP; /* -1 once provisioning is over: the number is then somebody else's */

void report_ready(pid_t init, pid_t spawner)
{
    struct report report = {.ok = 1, .warden_pid = getpid(), .init_pid = init, .spawner_pid = spawner};
    send(setup, &report, sizeof report, MSG_NOSIGNAL);
    close(setup);
    setup = -1;
}

void fail(const char *step, const char *detail)
{
    struct report report = {.error = errno};
    snprintf(report.step, sizeof report.step, "%s", step);
    snprintf(report.detail, sizeof report.detail, "%s", detail ? detail : "");
    send(setup, &report, sizeof report, MSG_NOSIGNAL);
    _exit(1);
}
