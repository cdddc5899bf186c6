/* gate32 FILE: creates FILE through the 64-bit gate as FILE.64, then through int 0x80 (i386) as FILE.32, and by x32
 * numbers as FILE.x32. */
#include "hostile.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return 2;
    snprintf(low, 4096, "%s.64", argv[1]);
    say("64", syscall(SYS_open, low, O_CREAT | O_WRONLY, 0644));
    snprintf(low, 4096, "%s.x32", argv[1]);
    say("x32", syscall(0x40000000L | SYS_open, low, O_CREAT | O_WRONLY, 0644));
    snprintf(low, 4096, "%s.32", argv[1]);
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(8 /* creat */), "b"(low), "c"(0644) : "memory");
    errno = (int)-result;
    say("32", result < 0 ? -1 : 0);
    return 0;
}
