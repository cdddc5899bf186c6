/* alcove-warden: see session.h for what it is started with. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef ALCOVE_VERSION
#define ALCOVE_VERSION "0.1.0"
#endif
#ifndef ALCOVE_BUILD_OPTIONS
#define ALCOVE_BUILD_OPTIONS "by hand"
#endif

/* Its descriptor lands on the lowest number, since what we have opened is out of the way. */
static int load_plan(struct plan *plan)
{
    char byte;
    int fd, count = 1;
    if (message_receive(FD_SETUP, &byte, 1, &fd, &count) != 1 || count != 1 || fd != FD_PLAN)
        return -1;
    struct stat found;
    if (fstat(FD_PLAN, &found) < 0 || found.st_size <= 0)
        return -1;
    char *data = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_PRIVATE, FD_PLAN, 0);
    if (data == MAP_FAILED)
        return -1;
    *plan = (struct plan){data, (size_t)found.st_size};
    return plan_check(plan);
}

/* The trees of a request, each of a descriptor of its own; how many, or -1. */
static int make_trees(const struct plan *plan, const int *sources, int count, int userns, int *trees, uint32_t *flags)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    int made = 0;
    while (plan_next(&cursor, &op) == 1) {
        errno = EINVAL;
        *flags = op.flags;
        int tree = made == count ? -1 : hostside_tree(&op, "", sources[made], op.flags & TREE_IDMAP ? userns : -1);
        if (tree < 0)
            return -1;
        trees[made++] = tree;
    }
    return made;
}

/* A mount for a live session that only the caller's own credentials can make: sent to the warden, to which the caller
 * gives us a connection. With that come the session's user namespace, the source, and for TREE_COW where its changes
 * go. */
static int porter_main(const struct plan *plan)
{
    struct control_reply reply = {0};
    char byte;
    int fds[4], count = 4, trees[2];
    uint32_t flags = 0;
    if (message_receive(FD_SETUP, &byte, 1, fds, &count) != 1 || count < 3)
        return 2;
    int made = make_trees(plan, fds + 2, count - 2, fds[1], trees, &flags);
    if (made < 0) {
        reply.error = errno;
        snprintf(reply.step, sizeof reply.step, "%s",
                 flags & TREE_IDMAP_OWNER ? "idmapped mount" : "source");
        (void)!write(FD_SETUP, &reply, sizeof reply);
        return 1;
    }
    int none = 0;
    errno = 0;
    if (message_send(fds[0], plan->data, plan->size, trees, made) < 0 ||
        message_receive(fds[0], &reply, sizeof reply, NULL, &none) != (ssize_t)sizeof reply) {
        reply.error = errno ? errno : ECONNRESET; /* it ended, or answered short: nothing is known to be mounted */
        snprintf(reply.step, sizeof reply.step, "warden");
    }
    (void)!write(FD_SETUP, &reply, sizeof reply);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        return dprintf(1, "alcove-warden %s %s\n", ALCOVE_VERSION, ALCOVE_BUILD_OPTIONS) < 0;
    }
    if (argc == 3 && strcmp(argv[1], "--probe") == 0)
        return probe_main(argv[2]);
    struct plan plan;
    int warden = argc > 2 && strcmp(argv[2], "warden") == 0;
    sys_close_range(FD_PLAN, ~0U, 0);
    fcntl(FD_SETUP, F_SETFD, FD_CLOEXEC);
    title_keep(argc, argv);
    if (warden)
        warden_begin(argc > 3 && strcmp(argv[3], "network") == 0);
    if (load_plan(&plan) < 0) {
        if (warden)
            warden_abandon();
        dprintf(2, "alcove-warden: nobody sent a plan; the `alcove` command and library start this program\n");
        return 2;
    }
    if (!warden)
        return porter_main(&plan);
    warden_main(&plan);
}
