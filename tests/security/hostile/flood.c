/* flood MEBIBYTES HOW: output, `one` stream or `both` by turns, `line` without a newline; `after`: by a child, after
 * the end of the command itself. */
#include "hostile.h"

static char block[1 << 20];

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    memset(block, 'x', sizeof block);
    if (strcmp(argv[2], "line") != 0)
        for (size_t i = 80; i < sizeof block; i += 81)
            block[i] = '\n';
    if (!strcmp(argv[2], "after") && fork() > 0)
        return 0;
    for (long i = 0; i < atol(argv[1]); i++)
        for (size_t done = 0; done < sizeof block;) {
            int to = !strcmp(argv[2], "both") && i % 2 ? 2 : 1;
            ssize_t wrote = write(to, block + done, sizeof block - done);
            if (wrote <= 0)
                return 1;
            done += (size_t)wrote;
        }
    return 0;
}
