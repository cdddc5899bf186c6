/* Process titles: alcove-warden, alcove-spawner, alcove-init, so that a person looking at ps knows what is what. */
#include "session.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

static char *area;
static size_t room;
static char key[64];

void title_keep(int argc, char **argv)
{
    area = argv[0];
    room = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    snprintf(key, sizeof key, "%s", argc > 1 ? argv[1] : "");
}

void title_set(const char *role)
{
    char title[128];
    snprintf(title, sizeof title, "%s %s", role, key);
    memset(area, 0, room);
    snprintf(area, room, "%s", title);
    prctl(PR_SET_NAME, role);
}
