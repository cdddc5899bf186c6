/* Lists of strings and small files, for processes that end soon after: the first ones come out of our own bss, so that
 * an exec of ordinary size asks the kernel for nothing, and are not taken back. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 16 };

static _Alignas(ALIGN) char near[4096];
static size_t used;

void *calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX - 2 * ALIGN)
        return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes <= sizeof near - used) {
        void *taken = near + used;
        used += bytes;
        return taken;
    }
    char *mapped = mmap(NULL, bytes + ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    *(size_t *)(void *)mapped = bytes + ALIGN;
    return mapped + ALIGN;
}

void free(void *taken)
{
    if ((uintptr_t)taken - (uintptr_t)near <= sizeof near || !taken)
        return;
    char *mapped = (char *)taken - ALIGN;
    munmap(mapped, *(size_t *)(void *)mapped);
}
