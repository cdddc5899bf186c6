/* Compares the runtime's strings and formatter with the host's over random input: rounds and seed are arguments. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define RUNTIME_COMPARES
#include "names.h"

#define DECLARE(name) extern __typeof__(name) runtime_##name;
COMPARED(DECLARE)

static int wrong;

#define SAME(what, ours, theirs)                                                                                       \
    do {                                                                                                               \
        if ((ours) != (theirs)) {                                                                                      \
            printf("%s differs: line %d\n", what, __LINE__);                                                           \
            wrong = 1;                                                                                                 \
        }                                                                                                              \
    } while (0)

enum { ROOM = 48 };

/* Few letters, so that things are found; some of them negative as a char. */
static void random_text(char *text, int most)
{
    static const char letters[] = {'a', 'b', '/', ' ', ':', '\x80', '\xff'};
    int length = rand() % most;
    for (int i = 0; i < length; i++)
        text[i] = letters[(size_t)rand() % sizeof letters];
    text[length] = 0;
}

static int sign(int value)
{
    return (value > 0) - (value < 0);
}

static void compare_search(const char *text, const char *other)
{
    int byte = rand() % 3 ? (unsigned char)text[rand() % (int)(strlen(text) + 1)] : rand() % 256;
    size_t size = (size_t)(rand() % ROOM);
    SAME("strlen", runtime_strlen(text), strlen(text));
    SAME("strchr", runtime_strchr(text, byte), strchr(text, byte));
    SAME("strrchr", runtime_strrchr(text, byte), strrchr(text, byte));
    SAME("memchr", runtime_memchr(text, byte, size), memchr(text, byte, size));
    SAME("strspn", runtime_strspn(text, other), strspn(text, other));
    SAME("strcspn", runtime_strcspn(text, other), strcspn(text, other));
    SAME("strstr", runtime_strstr(text, other), strstr(text, other));
    SAME("strcmp", sign(runtime_strcmp(text, other)), sign(strcmp(text, other)));
    SAME("strncmp", sign(runtime_strncmp(text, other, size)), sign(strncmp(text, other, size)));
    SAME("memcmp", sign(runtime_memcmp(text, other, size)), sign(memcmp(text, other, size)));
    SAME("bcmp", !runtime_bcmp(text, other, size), !memcmp(text, other, size));
    const char *found = strchr(text, byte);
    SAME("strchrnul", runtime_strchrnul(text, byte), found ? found : text + strlen(text));
}

static void compare_copies(const char *text)
{
    char ours[2 * ROOM], theirs[2 * ROOM];
    memset(ours, '#', sizeof ours);
    memset(theirs, '#', sizeof theirs);
    size_t to = (size_t)(rand() % ROOM), from = (size_t)(rand() % ROOM), size = (size_t)(rand() % ROOM);
    SAME("memcpy", runtime_memcpy(ours, text, size), (void *)ours);
    memcpy(theirs, text, size);
    SAME("memmove", runtime_memmove(ours + to, ours + from, size), (void *)(ours + to));
    memmove(theirs + to, theirs + from, size);
    SAME("copies", memcmp(ours, theirs, sizeof ours), 0);
    SAME("memset", runtime_memset(ours + from, 0, 0), (void *)(ours + from));
    SAME("strcpy", runtime_strcpy(ours + to, text), ours + to);
    strcpy(theirs + to, text);
    SAME("strncpy", runtime_strncpy(ours + from, text, size), ours + from);
    strncpy(theirs + from, text, size);
    runtime_memset(ours + to, (int)size * 7, from);
    memset(theirs + to, (int)size * 7, from);
    SAME("copies", memcmp(ours, theirs, sizeof ours), 0);
}

static void compare_tokens(const char *text)
{
    char ours[ROOM], theirs[ROOM], *our_rest = ours, *their_rest = theirs, *token;
    strcpy(ours, text);
    strcpy(theirs, text);
    do {
        token = strsep(&their_rest, ": ");
        char *taken = runtime_strsep(&our_rest, ": ");
        SAME("strsep", taken ? taken - ours : -1, token ? token - theirs : -1);
    } while (token);
    SAME("strsep", memcmp(ours, theirs, strlen(text) + 1), 0);
}

#define FORMAT(...)                                                                                                    \
    do {                                                                                                               \
        char ours[ROOM], theirs[ROOM];                                                                                 \
        memset(ours, '#', sizeof ours);                                                                                \
        memset(theirs, '#', sizeof theirs);                                                                            \
        size_t room = (size_t)(rand() % (ROOM + 1));                                                                   \
        SAME("snprintf's length", runtime_snprintf(ours, room, __VA_ARGS__), snprintf(theirs, room, __VA_ARGS__));     \
        SAME("snprintf", memcmp(ours, theirs, sizeof ours), 0);                                                        \
    } while (0)

static unsigned long long random_number(void)
{
    static const unsigned long long edges[] = {0, 9, 10, INT_MAX, INT_MIN, UINT_MAX, LLONG_MAX, LLONG_MIN, ULLONG_MAX};
    if (rand() % 4 == 0)
        return edges[(size_t)rand() % (sizeof edges / sizeof *edges)];
    return ((unsigned long long)rand() << 33 ^ (unsigned long long)rand() << 11 ^ (unsigned)rand()) >> rand() % 64;
}

static void compare_formats(const char *text, const char *other)
{
    unsigned long long number = random_number();
    int precision = rand() % ROOM - 4;
    FORMAT("%s", text);
    FORMAT("%s %s%%", text, other);
    FORMAT("%.3s|%.0s|%.4096s", text, other, other);
    FORMAT("%.*s%s%s", precision, text, *other ? "/" : "", other);
    FORMAT("%c%d%c", (int)number, (int)number, 'x');
    FORMAT("/proc/%d/%s", (int)number, text);
    FORMAT("%u %u %llu\n", (unsigned)number, ~(unsigned)number, number);
    FORMAT("%llo %o %llx %x", number, (unsigned)number, number, (unsigned)number);
    FORMAT("%ld %lu %lld %zu", (long)number, (unsigned long)number, (long long)number, (size_t)number);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
    srand(argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1);
    for (long i = 0; i < rounds && !wrong; i++) {
        char text[ROOM] = "", other[ROOM] = "";
        random_text(text, ROOM);
        random_text(other, rand() % 3 ? 4 : ROOM);
        compare_search(text, other);
        compare_copies(text);
        compare_tokens(text);
        compare_formats(text, other);
    }
    if (!wrong)
        printf("%ld rounds\n", rounds);
    return wrong;
}
