/* snprintf and dprintf with %s (and its precision), %c, %d, %u, %o, %x, %%, and l, ll or z before a number. Neither
 * widths nor flags: tests/native/test_runtime.py reads every format of the launcher. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct sink {
    char *text;
    size_t room, length; /* what was said, and what would have been with room for it */
};

static void put(struct sink *sink, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++, sink->length++)
        if (sink->length + 1 < sink->room)
            sink->text[sink->length] = text[i];
}

static void put_number(struct sink *sink, unsigned long long value, unsigned base)
{
    char digits[24], *at = digits + sizeof digits;
    do
        *--at = "0123456789abcdef"[value % base];
    while (value /= base);
    put(sink, at, (size_t)(digits + sizeof digits - at));
}

static void put_signed(struct sink *sink, long long value)
{
    if (value < 0)
        put(sink, "-", 1);
    put_number(sink, value < 0 ? -(unsigned long long)value : (unsigned long long)value, 10);
}

static void put_string(struct sink *sink, const char *text, size_t most)
{
    size_t length = 0;
    while (length < most && text[length]) /* nobody promised an end beyond `most` */
        length++;
    put(sink, text, length);
}

int vsnprintf(char *restrict text, size_t room, const char *restrict format, va_list values)
{
    struct sink sink = {text, room, 0};
    for (; *format; format++) {
        if (*format != '%') {
            put(&sink, format, 1);
            continue;
        }
        size_t most = SIZE_MAX;
        int wide = 0;
        format++;
        if (*format == '.') {
            most = 0;
            if (*++format == '*') {
                most = (size_t)va_arg(values, int); /* negative: as if there were none, which this is */
                format++;
            } else {
                for (; *format >= '0' && *format <= '9'; format++)
                    most = most * 10 + (size_t)(*format - '0');
            }
        }
        for (; *format == 'l' || *format == 'z'; format++)
            wide = 1; /* long, long long and size_t are as wide as one another on what we run on */
        char c;
        switch (*format) {
        case 's': put_string(&sink, va_arg(values, const char *), most); break;
        case 'c': c = (char)va_arg(values, int); put(&sink, &c, 1); break;
        case 'd': put_signed(&sink, wide ? va_arg(values, long long) : va_arg(values, int)); break;
        case 'u': put_number(&sink, wide ? va_arg(values, unsigned long long) : va_arg(values, unsigned), 10); break;
        case 'o': put_number(&sink, wide ? va_arg(values, unsigned long long) : va_arg(values, unsigned), 8); break;
        case 'x': put_number(&sink, wide ? va_arg(values, unsigned long long) : va_arg(values, unsigned), 16); break;
        case '%': put(&sink, "%", 1); break;
        default: __builtin_trap(); /* nothing half said: it may be a path or a map of ids */
        }
    }
    if (room)
        text[sink.length < room ? sink.length : room - 1] = 0;
    return (int)sink.length;
}

int snprintf(char *restrict text, size_t room, const char *restrict format, ...)
{
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, room, format, values);
    va_end(values);
    return length;
}

/* A line at a time: EMSGSIZE for more than one holds. */
int dprintf(int fd, const char *restrict format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (length >= (int)sizeof text) {
        errno = EMSGSIZE;
        return -1;
    }
    return (int)write(fd, text, (size_t)length);
}
