/* From the first instruction to main: our own relocations, the stack protector's secret, then main. */
#include "runtime.h"

#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

#ifdef __x86_64__
enum { RELATIVE = R_X86_64_RELATIVE };
#else
enum { RELATIVE = R_AARCH64_RELATIVE };
#endif

int main(int argc, char **argv, char **env);
_Noreturn void runtime_start(uintptr_t *stack);

uintptr_t __stack_chk_guard;
_Noreturn void __stack_chk_fail(void);

void __stack_chk_fail(void)
{
    __builtin_trap(); /* a signal that is blocked, as all of ours are, ends a process only if the processor raises it */
}

#ifdef __PIC__
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));

/* The compact form: an address, then bit maps of which of the 63 words after it are to be moved as well. */
static void relocate_packed(uintptr_t base, const uintptr_t *entry, size_t size)
{
    uintptr_t *where = NULL;
    for (const uintptr_t *end = entry + size / sizeof *entry; entry < end; entry++)
        if (*entry & 1) {
            for (size_t i = 0; i < 63; i++)
                if (*entry >> (i + 1) & 1)
                    where[i] += base;
            where += 63;
        } else {
            where = (uintptr_t *)(base + *entry);
            *where++ += base;
        }
}

static void relocate(uintptr_t base)
{
    uintptr_t rela = 0, relr = 0;
    size_t rela_size = 0, relr_size = 0;
    for (const Elf64_Dyn *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_RELA)
            rela = base + entry->d_un.d_ptr;
        else if (entry->d_tag == DT_RELASZ)
            rela_size = entry->d_un.d_val;
        else if (entry->d_tag == DT_RELR)
            relr = base + entry->d_un.d_ptr;
        else if (entry->d_tag == DT_RELRSZ)
            relr_size = entry->d_un.d_val;
    }
    const Elf64_Rela *at = (const Elf64_Rela *)rela;
    for (const Elf64_Rela *end = at + rela_size / sizeof *at; at < end; at++) {
        if (ELF64_R_TYPE(at->r_info) != RELATIVE)
            __builtin_trap(); /* a program linked alone has no other kind */
        *(uintptr_t *)(base + at->r_offset) = base + (uintptr_t)at->r_addend;
    }
    relocate_packed(base, (const uintptr_t *)relr, relr_size);
}
#endif

/* Tables of pointers are constant once they are relocated. */
static void seal(uintptr_t base, const Elf64_Phdr *header, size_t count, uintptr_t page)
{
    for (; count > 0; count--, header++)
        if (header->p_type == PT_GNU_RELRO) {
            uintptr_t start = (base + header->p_vaddr) & ~(page - 1);
            uintptr_t end = (base + header->p_vaddr + header->p_memsz) & ~(page - 1);
            if (end > start && mprotect((void *)start, end - start, PROT_READ) < 0)
                _exit(127);
        }
}

/* Keeps no secret of its own on the stack, for there is none yet. */
#if __has_attribute(no_stack_protector)
__attribute__((no_stack_protector))
#endif
__attribute__((used)) void runtime_start(uintptr_t *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1), **env = argv + argc + 1, **end = env;
    while (*end)
        end++;
    const Elf64_Phdr *headers = NULL;
    size_t count = 0, page = 4096;
    const uintptr_t *random = NULL;
    for (const Elf64_auxv_t *entry = (const Elf64_auxv_t *)(end + 1); entry->a_type != AT_NULL; entry++) {
        if (entry->a_type == AT_PHDR)
            headers = (const Elf64_Phdr *)entry->a_un.a_val;
        else if (entry->a_type == AT_PHNUM)
            count = entry->a_un.a_val;
        else if (entry->a_type == AT_PAGESZ)
            page = entry->a_un.a_val;
        else if (entry->a_type == AT_RANDOM)
            random = (const uintptr_t *)entry->a_un.a_val;
    }
    uintptr_t base = 0;
#ifdef __PIC__
    base = (uintptr_t)&__ehdr_start;
    relocate(base);
#endif
    seal(base, headers, count, page);
    if (!random)
        __builtin_trap();
    __stack_chk_guard = *random & ~(uintptr_t)0xff; /* a zero byte, which no overrun by a string can write past */
    _exit(main(argc, argv, env));
}
