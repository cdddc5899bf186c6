#include "runtime.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int number;

int *__errno_location(void)
{
    return &number;
}

long runtime_result(long answer)
{
    if ((unsigned long)answer <= -4096UL)
        return answer;
    number = (int)-answer;
    return -1;
}

/* Of execve(2), which is whose errors are told in words; by any other number, the number. */
char *strerror(int error)
{
    static const struct {
        int error;
        char text[40];
    } known[] = {
        {EPERM, "Operation not permitted"}, {EIO, "Input/output error"}, {ENOEXEC, "Exec format error"},
        {EACCES, "Permission denied"}, {EFAULT, "Bad address"}, {EISDIR, "Is a directory"},
        {EINVAL, "Invalid argument"}, {ENFILE, "Too many open files in system"}, {EMFILE, "Too many open files"},
        {ETXTBSY, "Text file busy"}, {ENAMETOOLONG, "File name too long"},
        {ELOOP, "Too many levels of symbolic links"}, {ELIBBAD, "Accessing a corrupted shared library"},
    };
    static char text[40];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].error == error)
            return strcpy(text, known[i].text);
    snprintf(text, sizeof text, "Unknown error %d", error);
    return text;
}
