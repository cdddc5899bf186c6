/* Stands in for the launcher: says what a file beside it holds, on the descriptor where a report is waited for. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char said[65536];
    char path[4096] = "", plan[256];
    if (argc == 3 && strcmp(argv[1], "--probe") == 0)
        return (int)write(1, "landlock 7\nidmap 0\n", 19) != 19;
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 8);
    if (size < 0)
        return 3;
    strcpy(path + size, ".said");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size = read(fd, said, sizeof said);
    (void)!read(3, plan, sizeof plan);
    (void)!write(3, said, (size_t)size);
    return 0;
}
