/* What egress enforcement needs inside the session's net namespace, which the warden is in: datagrams for the kernel's
 * network configuration, and sockets that somebody outside serves. What they mean is decided elsewhere. */
#include "session.h"

#include <errno.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { BACKLOG = 4096, MOST_KEPT = 8 };

/* Listening sockets are kept: whoever serves them may die, and another asks for the same ones. */
static struct {
    int type, family, port, fd;
} kept[MOST_KEPT];
static int kept_count;

/* Each datagram asks for one acknowledgement, which is there when sendto returns (src/alcove/egress/netlink.py). */
int network_configure(int protocol, const void *datagram, size_t size)
{
    struct {
        struct nlmsghdr header;
        int32_t error;
    } reply;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0)
        return -1;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int result = -1;
    if (sendto(fd, datagram, size, 0, (struct sockaddr *)&kernel, sizeof kernel) >= 0) {
        ssize_t got = recv(fd, &reply, sizeof reply, MSG_DONTWAIT);
        if (got == (ssize_t)sizeof reply && reply.header.nlmsg_type == NLMSG_ERROR) {
            errno = -reply.error;
            result = reply.error ? -1 : 0;
        } else if (got >= 0) {
            errno = EPROTO;
        }
    }
    int error = errno;
    close(fd);
    errno = error;
    return result;
}

static int bind_to_loopback(int fd, int family, int port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (family == AF_INET)
        return bind(fd, (struct sockaddr *)&v4, sizeof v4);
    return bind(fd, (struct sockaddr *)&v6, sizeof v6);
}

/* A socket of the namespace; port 0: unbound, for the caller to bind. */
static int make_socket(int type, int family, int port)
{
    for (int i = 0; i < kept_count; i++)
        if (kept[i].type == type && kept[i].family == family && kept[i].port == port)
            return kept[i].fd;
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || port == 0)
        return fd;
    if (kept_count == MOST_KEPT || bind_to_loopback(fd, family, port) < 0 ||
        (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)) {
        int error = kept_count == MOST_KEPT ? EMFILE : errno;
        close(fd);
        errno = error;
        return -1;
    }
    kept[kept_count].type = type;
    kept[kept_count].family = family;
    kept[kept_count].port = port;
    kept[kept_count++].fd = fd;
    return fd;
}

const char *network_serve(struct plan_cursor *rest, int *fds, int *count)
{
    struct op op;
    while (plan_next(rest, &op) == 1) {
        if (op.kind == OP_NETLINK && network_configure((int)op.n0, op.s0, op.len0) < 0)
            return "netlink";
        if (op.kind != OP_SOCKET)
            continue;
        errno = EMFILE;
        int fd = *count < MESSAGE_FDS ? make_socket((int)op.n0, (int)op.v0, (int)op.n1) : -1;
        if (fd < 0)
            return "socket";
        fds[(*count)++] = fd;
    }
    return "";
}

void network_sent(const int *fds, int count)
{
    for (int i = 0; i < count; i++) {
        int ours = 0;
        for (int k = 0; k < kept_count; k++)
            ours |= kept[k].fd == fds[i];
        if (!ours)
            close(fds[i]);
    }
}
