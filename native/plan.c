#include "plan.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER = 40 };

static int is_blob(uint32_t kind)
{
    return kind == OP_SECCOMP || kind == OP_ARGV || kind == OP_ENV || kind == OP_FALLBACK_ARGV ||
           kind == OP_NETLINK;
}

static uint32_t u32(const char *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint64_t u64(const char *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

struct plan_cursor plan_begin(const struct plan *plan)
{
    return (struct plan_cursor){plan->data, plan->size};
}

int plan_next(struct plan_cursor *cursor, struct op *op)
{
    if (cursor->left == 0)
        return 0;
    if (cursor->left < HEADER)
        return -1;
    const char *at = cursor->next;
    *op = (struct op){.kind = u32(at), .flags = u32(at + 4), .n0 = u32(at + 8), .n1 = u32(at + 12),
                      .v0 = u64(at + 16), .v1 = u64(at + 24), .len0 = u32(at + 32), .len1 = u32(at + 36)};
    uint64_t size = (HEADER + (uint64_t)op->len0 + 1 + op->len1 + 1 + 7) & ~(uint64_t)7;
    if (size > cursor->left)
        return -1;
    op->s0 = at + HEADER;
    op->s1 = op->s0 + op->len0 + 1;
    if (op->s0[op->len0] != 0 || op->s1[op->len1] != 0)
        return -1;
    if (!is_blob(op->kind) && memchr(op->s0, 0, op->len0))
        return -1;
    if (op->kind != OP_FILE && memchr(op->s1, 0, op->len1))
        return -1;
    cursor->next += size;
    cursor->left -= size;
    return 1;
}

int plan_check(const struct plan *plan)
{
    struct plan_cursor cursor = plan_begin(plan);
    struct op op;
    int more;
    while ((more = plan_next(&cursor, &op)) == 1)
        ;
    return more;
}

int plan_find(const struct plan *plan, uint32_t kind, struct op *op)
{
    struct plan_cursor cursor = plan_begin(plan);
    while (plan_next(&cursor, op) == 1)
        if (op->kind == kind)
            return 1;
    memset(op, 0, sizeof *op);
    op->s0 = op->s1 = "";
    return 0;
}

char **plan_strings(const struct op *op)
{
    /* every string has a NUL, so more strings than bytes cannot be true */
    if (op->n0 > op->len0)
        return NULL;
    char **list = calloc((size_t)op->n0 + 1, sizeof *list);
    const char *at = op->s0, *end = op->s0 + op->len0;
    for (uint32_t i = 0; list && i < op->n0; i++) {
        const char *stop = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        if (!stop) {
            free(list);
            return NULL;
        }
        list[i] = (char *)at;
        at = stop + 1;
    }
    return list;
}
