/* writes DIRECTORY: every way of changing what is in it. It holds a file `data` of at least a page and a directory
 * `sub`. What destroys comes last, so that each attempt finds something to attack. */
#include "hostile.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static int reopened(const char *path)
{
    char again[64];
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    return open(again, O_WRONLY) < 0 ? -1 : 0;
}

static int mapped(const char *path)
{
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return -1;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return -1;
    page[0] = '!';
    return msync(page, 4096, MS_SYNC);
}

/* A private mapping made writable afterwards must stay private. */
static int protected(const char *path)
{
    int fd = open(path, O_RDONLY);
    char *page = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return -1;
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE) < 0)
        return -1;
    page[1] = '!';
    return msync(page, 4096, MS_SYNC);
}

static int writes(const char *path)
{
    int fd = open(path, O_WRONLY);
    return fd < 0 ? -1 : (int)write(fd, "!", 1);
}

int main(int argc, char **argv)
{
    if (argc != 2 || chdir(argv[1]) < 0)
        return 2;
    struct timespec times[2] = {{1, 0}, {1, 0}};
    say("write", writes("data"));
    say("append", open("data", O_WRONLY | O_APPEND));
    say("reopen", reopened("data"));
    say("mmap", mapped("data"));
    int readable = open("data", O_RDONLY);
    say("fallocate", readable < 0 ? -1 : fallocate(open("data", O_RDWR), 0, 0, 8192));
    (void)protected("data");
    say("chmod", chmod("data", 0777));
    say("fchmod", readable < 0 ? -1 : fchmod(readable, 0666));
    say("chown", chown("data", getuid(), getgid()));
    say("utimens", utimensat(AT_FDCWD, "data", times, 0));
    say("xattr", setxattr("data", "user.hostile", "1", 1, 0));
    say("create", open("new", O_CREAT | O_EXCL | O_WRONLY, 0644));
    say("tmpfile", open(".", O_TMPFILE | O_WRONLY, 0644));
    say("mkdir", mkdir("newdir", 0755));
    say("symlink", symlink("/", "newlink"));
    say("fifo", mkfifo("newfifo", 0644));
    say("link", link("data", "newname"));
    say("truncate", truncate("data", 16));
    say("rename", rename("data", "renamed"));
    say("exchange", (long)syscall(SYS_renameat2, AT_FDCWD, "sub", AT_FDCWD, "renamed", 2 /* RENAME_EXCHANGE */));
    say("rmdir", rmdir("renamed"));
    say("unlink", unlink("sub"));
    if (access("data", F_OK) == 0)
        say("unlink-data", unlink("data"));
    return 0;
}
