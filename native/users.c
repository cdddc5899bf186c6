/* A user's name, uid and groups from the cell's /etc/passwd and /etc/group, which a guest may have replaced: read
 * inside the cell, regular files only, at most 1 MiB of each. No libc lookup: it would load what the files say. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST = 1 << 20, NO_ID = -1 };

static char *read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); /* a planted FIFO must not hold us */
    struct stat found;
    char *text = NULL;
    if (fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size <= MOST)
        text = calloc(1, (size_t)found.st_size + 1);
    size_t used = 0;
    ssize_t got;
    while (text && used < (size_t)found.st_size &&
           (got = read(fd, text + used, (size_t)found.st_size - used)) > 0)
        used += (size_t)got;
    if (fd >= 0)
        close(fd);
    return text;
}

static long number(const char *text)
{
    if (!text || !*text || strlen(text) > 9 || strspn(text, "0123456789") != strlen(text))
        return NO_ID;
    return (long)number_read(&text); /* of 9 digits */
}

/* Splits "a:b:c" in place; absent fields are "". */
static void fields(char *line, char **field, int count)
{
    for (int i = 0; i < count; i++) {
        field[i] = line ? line : (char *)"";
        if (line && (line = strchr(line, ':')))
            *line++ = 0;
    }
}

static int find_passwd(const char *user, long *uid, long *gid, char *name, size_t room)
{
    char *text = read_file("/etc/passwd"), *rest = text, *line, *field[4];
    long wanted = number(user);
    int found = 0;
    while (!found && rest && (line = strsep(&rest, "\n"))) {
        fields(line, field, 4);
        if (wanted == NO_ID ? strcmp(field[0], user) != 0 : number(field[2]) != wanted)
            continue;
        *uid = number(field[2]);
        *gid = number(field[3]);
        strncpy(name, field[0], room - 1);
        found = *uid != NO_ID && *gid != NO_ID;
    }
    free(text);
    return found;
}

static int is_member(char *members, const char *name)
{
    char *member;
    while ((member = strsep(&members, ",")))
        if (strcmp(member, name) == 0)
            return 1;
    return 0;
}

static void find_groups(const char *name, struct identity *identity)
{
    char *text = read_file("/etc/group"), *rest = text, *line, *field[4];
    while (rest && (line = strsep(&rest, "\n")) && identity->group_count < 64) {
        fields(line, field, 4);
        long gid = number(field[2]);
        if (gid != NO_ID && is_member(field[3], name))
            identity->groups[identity->group_count++] = (gid_t)gid;
    }
    free(text);
}

int identity_find(const char *user, struct identity *identity)
{
    char name[64] = "";
    long uid = NO_ID, gid = NO_ID;
    *identity = (struct identity){0};
    if (!find_passwd(user, &uid, &gid, name, sizeof name)) {
        uid = gid = number(user); /* a number needs no entry */
        if (uid == NO_ID) {
            errno = ENOENT;
            return -1;
        }
    }
    identity->uid = (uid_t)uid;
    identity->gid = (gid_t)gid;
    identity->groups[identity->group_count++] = (gid_t)gid;
    if (*name)
        find_groups(name, identity);
    return 0;
}
