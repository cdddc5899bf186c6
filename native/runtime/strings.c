/* Plain loops: nothing that is long goes through here often. */
#include <string.h>
#include <strings.h>

#if __STDC_HOSTED__
#error "without -ffreestanding a compiler may make a function of these a call of itself"
#endif

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
#ifdef __x86_64__
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
#else
    char *at = to;
    const char *source = from;
    while (size--)
        *at++ = *source++;
#endif
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    char *at = to;
    const char *source = from;
    if ((size_t)(at - source) >= size)
        return memcpy(to, from, size);
    while (size--)
        at[size] = source[size];
    return to;
}

void *memset(void *to, int byte, size_t size)
{
#ifdef __x86_64__
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(byte) : "memory");
#else
    char *at = to;
    while (size--)
        *at++ = (char)byte;
#endif
    return to;
}

int memcmp(const void *one, const void *other, size_t size)
{
    const unsigned char *a = one, *b = other;
    for (; size; size--, a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}

int bcmp(const void *one, const void *other, size_t size)
{
    return memcmp(one, other, size);
}

void *memchr(const void *in, int byte, size_t size)
{
    for (const unsigned char *at = in; size; size--, at++)
        if (*at == (unsigned char)byte)
            return (void *)at;
    return NULL;
}

size_t strlen(const char *text)
{
    const char *end = text;
    while (*end)
        end++;
    return (size_t)(end - text);
}

char *strcpy(char *restrict to, const char *restrict from)
{
    return memcpy(to, from, strlen(from) + 1);
}

char *strncpy(char *restrict to, const char *restrict from, size_t size)
{
    size_t i = 0;
    for (; i < size && from[i]; i++)
        to[i] = from[i];
    memset(to + i, 0, size - i);
    return to;
}

int strcmp(const char *one, const char *other)
{
    for (; *one == *other && *one; one++, other++)
        ;
    return (unsigned char)*one - (unsigned char)*other;
}

int strncmp(const char *one, const char *other, size_t size)
{
    for (; size; size--, one++, other++)
        if (*one != *other || !*one)
            return (unsigned char)*one - (unsigned char)*other;
    return 0;
}

char *strchrnul(const char *text, int byte)
{
    while (*text && *text != (char)byte)
        text++;
    return (char *)text;
}

char *strchr(const char *text, int byte)
{
    char *found = strchrnul(text, byte);
    return *found == (char)byte ? found : NULL;
}

char *strrchr(const char *text, int byte)
{
    const char *end = text + strlen(text);
    while (*end != (char)byte)
        if (end-- == text)
            return NULL;
    return (char *)end;
}

size_t strspn(const char *text, const char *accepted)
{
    size_t length = 0;
    while (text[length] && strchr(accepted, text[length]))
        length++;
    return length;
}

size_t strcspn(const char *text, const char *refused)
{
    size_t length = 0;
    while (!strchr(refused, text[length])) /* which finds the end too */
        length++;
    return length;
}

char *strstr(const char *text, const char *wanted)
{
    size_t length = strlen(wanted);
    for (; strncmp(text, wanted, length) != 0; text++)
        if (!*text)
            return NULL;
    return (char *)text;
}

char *strsep(char **restrict rest, const char *restrict separators)
{
    char *token = *rest;
    if (!token)
        return NULL;
    char *end = token + strcspn(token, separators);
    *rest = *end ? end + 1 : NULL;
    *end = 0;
    return token;
}
