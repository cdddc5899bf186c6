/* The processes that /proc shows, one after the other. */
#include "session.h"

#include <fcntl.h>
#include <string.h>

struct entry { /* getdents64(2) */
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[];
};

void processes_begin(struct processes *processes)
{
    processes->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    processes->at = processes->filled = 0;
}

const char *processes_next(struct processes *processes)
{
    for (;;) {
        if (processes->at == processes->filled) {
            processes->at = 0;
            processes->filled = syscall(SYS_getdents64, processes->proc, processes->data, sizeof processes->data);
        }
        if (processes->filled <= 0) {
            processes_end(processes);
            return NULL;
        }
        const struct entry *entry = (const struct entry *)(const void *)(processes->data + processes->at);
        processes->at += entry->size;
        if (entry->name[0] >= '1' && entry->name[0] <= '9')
            return entry->name;
    }
}

void processes_end(struct processes *processes)
{
    if (processes->proc >= 0)
        close(processes->proc);
    processes->proc = -1;
}

int64_t number_read(const char **text)
{
    const char *at = *text + strspn(*text, " ");
    if (*at < '0' || *at > '9')
        return -1;
    int64_t number = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        number = number > (INT64_MAX - 9) / 10 ? INT64_MAX : number * 10 + (*at - '0');
    *text = at;
    return number;
}
