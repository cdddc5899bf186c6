/* `alcove-warden --probe DIRECTORY`: what only a system call can tell about this host, one fact a line. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int can_idmap(const char *directory)
{
    struct stat found;
    if (stat(directory, &found) < 0)
        return 0;
    struct op op = {.flags = TREE_IDMAP_OWNER | TREE_NOT_RECURSIVE, .n0 = found.st_uid, .n1 = found.st_gid};
    op.v0 = op.v1 = 1000;
    int tree = hostside_tree(&op, directory, AT_FDCWD, -1);
    if (tree < 0)
        return 0;
    close(tree);
    return 1;
}

int probe_main(const char *directory)
{
    int landlock = sys_landlock_create_ruleset(NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
    printf("landlock %d\n", landlock < 0 ? 0 : landlock);
    printf("idmap %d\n", geteuid() == 0 && can_idmap(directory));
    return 0;
}
