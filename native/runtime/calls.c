/* System calls under their libc names, one each. Where an architecture lacks the old call, its successor is used on
 * all of them. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What glibc and musl declare differently. */
#ifdef __GLIBC__
typedef __SOCKADDR_ARG socket_address;
typedef __rlimit_resource_t resource;
typedef unsigned long ioctl_request;
typedef __CONST_SOCKADDR_ARG constant_address;
#define address_of(address) ((address).__sockaddr__)
#else
typedef struct sockaddr *restrict socket_address;
typedef const struct sockaddr *constant_address;
typedef int resource;
typedef int ioctl_request;
#define address_of(address) (address)
#endif

enum { SIGSET = 8 };

/* The kernel looks at as many arguments as the call has; to read one that was not passed is harmless. */
#define LAST_ARGUMENT(type, last)                                                                                      \
    va_list rest;                                                                                                      \
    va_start(rest, last);                                                                                              \
    type argument = va_arg(rest, type);                                                                                \
    va_end(rest)

/* ---- processes ---- */

void _exit(int status)
{
    for (;;)
        syscall(SYS_exit_group, status);
}

pid_t fork(void)
{
    return (pid_t)syscall(SYS_clone, (long)SIGCHLD, NULL, NULL, NULL, NULL);
}

int execve(const char *path, char *const argv[], char *const env[])
{
    return (int)syscall(SYS_execve, path, argv, env);
}

pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
    return (pid_t)syscall(SYS_wait4, pid, status, options, usage);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

int kill(pid_t pid, int number)
{
    return (int)syscall(SYS_kill, pid, number);
}

int pause(void)
{
    return (int)syscall(SYS_ppoll, NULL, 0L, NULL, NULL, 0L);
}

pid_t getpid(void)
{
    return (pid_t)syscall(SYS_getpid);
}

pid_t getppid(void)
{
    return (pid_t)syscall(SYS_getppid);
}

pid_t setsid(void)
{
    return (pid_t)syscall(SYS_setsid);
}

int prctl(int option, ...)
{
    va_list rest;
    va_start(rest, option);
    unsigned long a = va_arg(rest, unsigned long), b = va_arg(rest, unsigned long), c = va_arg(rest, unsigned long),
                  d = va_arg(rest, unsigned long);
    va_end(rest);
    return (int)syscall(SYS_prctl, option, a, b, c, d);
}

int getrlimit(resource which, struct rlimit *limit)
{
    return (int)syscall(SYS_prlimit64, 0, (int)which, NULL, limit);
}

int setrlimit(resource which, const struct rlimit *limit)
{
    return (int)syscall(SYS_prlimit64, 0, (int)which, limit, NULL);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    return (int)syscall(SYS_clock_gettime, clock, now);
}

/* ---- ids ---- */

uid_t getuid(void)
{
    return (uid_t)syscall(SYS_getuid);
}

uid_t geteuid(void)
{
    return (uid_t)syscall(SYS_geteuid);
}

gid_t getgid(void)
{
    return (gid_t)syscall(SYS_getgid);
}

gid_t getegid(void)
{
    return (gid_t)syscall(SYS_getegid);
}

int setresuid(uid_t real, uid_t effective, uid_t saved)
{
    return (int)syscall(SYS_setresuid, real, effective, saved);
}

int setresgid(gid_t real, gid_t effective, gid_t saved)
{
    return (int)syscall(SYS_setresgid, real, effective, saved);
}

int setgroups(size_t count, const gid_t *groups)
{
    return (int)syscall(SYS_setgroups, count, groups);
}

/* ---- namespaces and mounts ---- */

int unshare(int flags)
{
    return (int)syscall(SYS_unshare, flags);
}

int setns(int fd, int type)
{
    return (int)syscall(SYS_setns, fd, type);
}

int sethostname(const char *name, size_t length)
{
    return (int)syscall(SYS_sethostname, name, length);
}

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
    return (int)syscall(SYS_mount, source, target, type, flags, data);
}

int umount2(const char *target, int flags)
{
    return (int)syscall(SYS_umount2, target, flags);
}

/* ---- files ---- */

int openat(int directory, const char *path, int flags, ...)
{
    LAST_ARGUMENT(unsigned, flags);
    return (int)syscall(SYS_openat, directory, path, flags, argument);
}

int open(const char *path, int flags, ...)
{
    LAST_ARGUMENT(unsigned, flags);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, argument);
}

int close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

ssize_t read(int fd, void *data, size_t size)
{
    return syscall(SYS_read, fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    return syscall(SYS_write, fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    return syscall(SYS_pread64, fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

int fcntl(int fd, int command, ...)
{
    LAST_ARGUMENT(unsigned long, command);
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

int ioctl(int fd, ioctl_request request, ...)
{
    LAST_ARGUMENT(unsigned long, request);
    return (int)syscall(SYS_ioctl, fd, request, argument);
}

int dup(int fd)
{
    return (int)syscall(SYS_dup, fd);
}

int dup2(int from, int to)
{
    if (from == to) /* which dup3 refuses */
        return fcntl(from, F_GETFD, 0L) < 0 ? -1 : to;
    return (int)syscall(SYS_dup3, from, to, 0);
}

int pipe2(int fds[2], int flags)
{
    return (int)syscall(SYS_pipe2, fds, flags);
}

int fstatat(int directory, const char *restrict path, struct stat *restrict found, int flags)
{
    return (int)syscall(SYS_newfstatat, directory, path, found, flags);
}

int stat(const char *restrict path, struct stat *restrict found)
{
    return fstatat(AT_FDCWD, path, found, 0);
}

int fstat(int fd, struct stat *found)
{
    return (int)syscall(SYS_fstat, fd, found);
}

int fchmodat(int directory, const char *path, mode_t mode, int flags)
{
    if (flags != 0) { /* the call has none */
        errno = ENOTSUP;
        return -1;
    }
    return (int)syscall(SYS_fchmodat, directory, path, mode);
}

mode_t umask(mode_t mask)
{
    return (mode_t)syscall(SYS_umask, mask);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    return (int)syscall(SYS_mkdirat, directory, path, mode);
}

int mknodat(int directory, const char *path, mode_t mode, dev_t device)
{
    return (int)syscall(SYS_mknodat, directory, path, mode, (unsigned)device); /* 12 and 20 bits, as dev_t has them */
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

int symlinkat(const char *target, int directory, const char *path)
{
    return (int)syscall(SYS_symlinkat, target, directory, path);
}

int chdir(const char *path)
{
    return (int)syscall(SYS_chdir, path);
}

int fchdir(int fd)
{
    return (int)syscall(SYS_fchdir, fd);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

int munmap(void *address, size_t size)
{
    return (int)syscall(SYS_munmap, address, size);
}

int mprotect(void *address, size_t size, int protection)
{
    return (int)syscall(SYS_mprotect, address, size, protection);
}

/* ---- waiting ---- */

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    struct timespec left; /* the kernel writes what is left into it */
    if (timeout)
        left = *timeout;
    return (int)syscall(SYS_ppoll, fds, count, timeout ? &left : NULL, mask, (long)SIGSET);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    struct timespec left = {timeout / 1000, timeout % 1000 * 1000000L};
    return ppoll(fds, count, timeout < 0 ? NULL : &left, NULL);
}

int epoll_create1(int flags)
{
    return (int)syscall(SYS_epoll_create1, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    return (int)syscall(SYS_epoll_pwait, epoll, events, most, timeout, NULL, (long)SIGSET);
}

/* ---- sockets ---- */

int socket(int domain, int type, int protocol)
{
    return (int)syscall(SYS_socket, domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    return (int)syscall(SYS_socketpair, domain, type, protocol, fds);
}

int bind(int fd, constant_address address, socklen_t length)
{
    return (int)syscall(SYS_bind, fd, address_of(address), (long)length);
}

int listen(int fd, int backlog)
{
    return (int)syscall(SYS_listen, fd, backlog);
}

int accept4(int listener, socket_address address, socklen_t *restrict length, int flags)
{
    return (int)syscall(SYS_accept4, listener, address_of(address), length, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    return syscall(SYS_sendto, fd, data, size, flags, NULL, 0L);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, constant_address address, socklen_t length)
{
    return syscall(SYS_sendto, fd, data, size, flags, address_of(address), (long)length);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    return syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return syscall(SYS_sendmsg, fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    return syscall(SYS_recvmsg, fd, message, flags);
}

/* macros as well, where the compiler optimizes */
uint16_t(htons)(uint16_t number)
{
    return __builtin_bswap16(number);
}

uint32_t(htonl)(uint32_t number)
{
    return __builtin_bswap32(number);
}

#ifdef __GLIBC__ /* elsewhere a macro */
struct cmsghdr *__cmsg_nxthdr(struct msghdr *message, struct cmsghdr *header)
{
    size_t room = (size_t)((char *)message->msg_control + message->msg_controllen - (char *)header);
    size_t step = CMSG_ALIGN(header->cmsg_len);
    if (header->cmsg_len < sizeof *header || step > room || room - step < sizeof *header)
        return NULL;
    return (struct cmsghdr *)(void *)((char *)header + step);
}
#endif
