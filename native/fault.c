/* Test builds only: fail, or die, at a named point of provisioning. Empty in every other build. */
#include "session.h"

#ifdef ALCOVE_FAULTS

#include <errno.h>
#include <signal.h>
#include <string.h>

void fault(const struct plan *plan, const char *point)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    while (plan_next(&cursor, &op) == 1) {
        if (op.kind != OP_FAULT || strcmp(op.s0, point) != 0)
            continue;
        if (strcmp(op.s1, "kill9") == 0)
            kill(getpid(), SIGKILL);
        errno = ENOMEM;
        fail("fault", point);
    }
}

#else

typedef int nothing_here; /* ISO C wants a declaration */

#endif
