/* The cell's processes stand still for as long as anybody holds them: a connection, which lets go by its end however
 * that comes, or everybody until somebody says OP_THAW. The v2 freezer does it (cgroup-v2.rst, cgroup.freeze); SIGKILL
 * works on what it holds. The warden and init are not in the group, so that requests are served meanwhile. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { WITHIN_MS = 2000, LOOK_MS = 1, LOOKS = 20, MOST_SPELLS = 32 };

struct hold {
    int client;  /* 0: a free entry; the number of no client */
    int waiting; /* for the processes to stand still, and then for its answer */
    int stays;   /* asked for all, not for itself */
};

struct spell {
    uint64_t from, to;
};

static int door = -1, events = -1;
static struct hold holds[CLIENTS];
static struct spell spells[MOST_SPELLS];
static int spell_count, kept, written, looks;
static uint64_t deadline;

void freezer_open(int group)
{
    door = openat(group, "cgroup.freeze", O_WRONLY | O_CLOEXEC); /* Linux 5.2; without it nothing can be frozen */
    events = openat(group, "cgroup.events", O_RDONLY | O_CLOEXEC);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- how long ---- */

/* Two of the oldest become one of their length: what began before them still has its sum right. */
static void begin_spell(void)
{
    if (spell_count == MOST_SPELLS) {
        spells[0].to += spells[1].to - spells[1].from;
        memmove(spells + 1, spells + 2, (MOST_SPELLS - 2) * sizeof *spells);
        spell_count--;
    }
    spells[spell_count++] = (struct spell){now_ns(), 0};
}

uint64_t freezer_time(uint64_t since)
{
    uint64_t sum = 0, now = now_ns();
    for (int i = 0; i < spell_count; i++) {
        uint64_t to = spells[i].to ? spells[i].to : now, from = spells[i].from > since ? spells[i].from : since;
        sum += to > from ? to - from : 0;
    }
    return sum;
}

/* ---- the group ---- */

static int set(int frozen)
{
    if (written == frozen)
        return 0;
    if (write(door, frozen ? "1" : "0", 1) != 1)
        return -1;
    written = frozen;
    if (frozen)
        begin_spell();
    else
        spells[spell_count - 1].to = now_ns();
    return 0;
}

static int stands_still(void)
{
    char text[128] = "";
    return pread(events, text, sizeof text - 1, 0) > 0 && strstr(text, "frozen 1");
}

static int wanted(void)
{
    int count = kept;
    for (int i = 0; i < CLIENTS; i++)
        count += holds[i].client > 0;
    return count;
}

static void settle_group(void)
{
    if (!wanted())
        set(0);
}

static void tell(struct hold *hold, int error)
{
    struct control_reply reply = {.error = error};
    snprintf(reply.step, sizeof reply.step, "%s", error ? "freeze" : "");
    message_send(hold->client, &reply, sizeof reply, NULL, 0);
    hold->waiting = 0;
    if (error || hold->stays)
        *hold = (struct hold){0};
}

static void tell_waiting(int error, int only_those_that_stay)
{
    for (int i = 0; i < CLIENTS; i++)
        if (holds[i].waiting && (holds[i].stays || !only_those_that_stay)) {
            if (error && holds[i].stays)
                kept = 0;
            tell(&holds[i], error);
        }
}

/* ---- requests ---- */

const char *freezer_hold(int client, int stays)
{
    struct hold *hold = NULL;
    for (int i = 0; i < CLIENTS && !hold; i++)
        if (holds[i].client == 0 || holds[i].client == client)
            hold = &holds[i];
    errno = door < 0 || events < 0 ? EOPNOTSUPP : EBUSY;
    if (!hold || errno == EOPNOTSUPP || set(1) < 0)
        return "freeze";
    *hold = (struct hold){.client = client, .waiting = 1, .stays = stays};
    kept |= stays;
    deadline = now_ns() + (uint64_t)WITHIN_MS * 1000000;
    looks = 0;
    freezer_look();
    return "";
}

void freezer_thaw(void)
{
    kept = 0;
    tell_waiting(ECANCELED, 1);
    settle_group();
}

void freezer_forget(int client)
{
    for (int i = 0; i < CLIENTS; i++)
        if (holds[i].client == client)
            holds[i] = (struct hold){0};
    settle_group();
}

int freezer_has(int client)
{
    for (int i = 0; i < CLIENTS; i++)
        if (holds[i].client == client)
            return 1;
    return 0;
}

void freezer_release(void)
{
    set(0);
}

int freezer_holds(void)
{
    return written;
}

/* ---- waiting ---- */

static int waits(void)
{
    for (int i = 0; i < CLIENTS; i++)
        if (holds[i].waiting)
            return 1;
    return 0;
}

int freezer_events(int *pause)
{
    if (!waits())
        return -1;
    uint64_t now = now_ns();
    int left = deadline > now ? (int)((deadline - now) / 1000000) + 1 : 0;
    int next = looks < LOOKS ? LOOK_MS : left; /* the kernel tells of changes 10 ms apart (kernel/cgroup/cgroup.c) */
    if (next > left)
        next = left;
    if (*pause < 0 || *pause > next)
        *pause = next;
    return events;
}

void freezer_look(void)
{
    if (!waits())
        return;
    looks++;
    if (stands_still())
        tell_waiting(0, 0);
    else if (now_ns() >= deadline)
        tell_waiting(ETIMEDOUT, 0);
    settle_group();
}
