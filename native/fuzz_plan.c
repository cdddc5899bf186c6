/* Fuzzes the decoder that reads plans and requests. With libFuzzer where clang brings it; elsewhere this file's own
 * main mutates well-formed plans, as many as its first argument says, from the seed in its second. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Touches every byte that an operation claims to have, so that a sanitizer sees any that it has not. */
static unsigned long touch(const struct op *op)
{
    unsigned long sum = op->kind + op->flags;
    for (uint32_t i = 0; i <= op->len0; i++)
        sum += (unsigned char)op->s0[i];
    for (uint32_t i = 0; i <= op->len1; i++)
        sum += (unsigned char)op->s1[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* of exactly that size: one byte further is an error */
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    struct plan plan = {copy, size};
    struct plan_cursor cursor = plan_begin(&plan);
    struct op op;
    static volatile unsigned long sink;
    int good = plan_check(&plan) == 0;
    while (plan_next(&cursor, &op) == 1) {
        sink += touch(&op);
        char **list = plan_strings(&op);
        for (char **at = list; list && *at; at++)
            sink += strlen(*at);
        free(list);
    }
    if (good && cursor.left != 0)
        abort(); /* plan_check and the walk must agree */
    plan_find(&plan, OP_ARGV, &op);
    free(copy);
    return 0;
}

#ifndef ALCOVE_LIBFUZZER

static size_t put(uint8_t *at, uint32_t kind, const char *s0, uint32_t len0, const char *s1, uint32_t len1)
{
    uint32_t head[4] = {kind, 0, 2, 0}, lengths[2] = {len0, len1};
    size_t size = (40 + (size_t)len0 + 1 + len1 + 1 + 7) & ~(size_t)7;
    memset(at, 0, size);
    memcpy(at, head, sizeof head);
    memcpy(at + 32, lengths, sizeof lengths);
    memcpy(at + 40, s0, len0);
    memcpy(at + 41 + len0, s1, len1);
    return size;
}

static size_t well_formed(uint8_t *at)
{
    size_t size = 0;
    for (uint32_t kind = 1; kind < 130; kind += (uint32_t)rand() % 30 + 1)
        size += put(at + size, kind, "left\0side\0", (uint32_t)rand() % 11, "right", (uint32_t)rand() % 6);
    size += put(at + size, OP_ARGV, "a\0b", 4, "", 0);
    return size;
}

static void mutate(uint8_t *data, size_t *size)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
    for (int i = rand() % 6; i >= 0 && *size; i--)
        switch (rand() % 3) {
        case 0: data[(size_t)rand() % *size] = (uint8_t)rand(); break;
        case 1: data[(size_t)rand() % *size] = edges[(size_t)rand() % sizeof edges]; break;
        default: *size = (size_t)rand() % (*size + 1);
        }
}

int main(int argc, char **argv)
{
    static uint8_t data[1 << 14];
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
    srand(argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1);
    for (long i = 0; i < rounds; i++) {
        size_t size = well_formed(data);
        if (i % 8)
            mutate(data, &size);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld plans\n", rounds);
    return 0;
}

#endif
