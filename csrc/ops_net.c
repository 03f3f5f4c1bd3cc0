/* A network device that the host has moved into our namespace: its addresses again, then up. */
#include "init.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define NETLINK_ROUTE_PROTOCOL 0
#define NLMSG_ERROR_TYPE 2

struct message_head { /* struct nlmsghdr, netlink(7) */
    uint32_t size;
    uint16_t type, flags;
    uint32_t sequence, port;
};

struct address { /* struct ifaddrmsg, rtnetlink(7) */
    struct message_head head;
    uint8_t family, prefix, flags, scope;
    uint32_t index;
};

struct answer { /* struct nlmsgerr */
    struct message_head head;
    int32_t error;
};

/* One RTM_NEWADDR and its acknowledgement. The namespace may have the address already: it is one that was joined. */
static int add_address(int fd, const unsigned char *bytes, uint32_t size, uint32_t index)
{
    char buffer[1024];
    struct answer answer;
    ssize_t got;

    if (size < sizeof(struct address) || size > sizeof buffer)
        return -EINVAL;
    memcpy(buffer, bytes, size);
    memcpy(buffer + offsetof(struct address, index), &index, sizeof index);
    if (send(fd, buffer, size, 0) != (ssize_t)size)
        return -errno;
    got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0)
        return -errno;
    if ((size_t)got < sizeof answer)
        return -EIO;
    memcpy(&answer, buffer, sizeof answer);
    if (answer.head.type != NLMSG_ERROR_TYPE)
        return -EIO;
    return answer.error == -EEXIST ? 0 : answer.error;
}

/* Every message of the blob; each begins with its own size. */
static int add_addresses(struct blob all, uint32_t index)
{
    int fd = (int)res(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE_PROTOCOL)), ret = fd < 0 ? fd : 0;
    uint32_t at = 0, size;

    while (ret == 0 && at + sizeof size <= all.size) {
        memcpy(&size, all.bytes + at, sizeof size);
        ret = size > all.size - at ? -EINVAL : add_address(fd, all.bytes + at, size, index);
        at += (size + 3) & ~3u;
    }
    close_fd(&fd);
    return ret;
}

/* OP_NET_DEVICE: the device is known by its index, for a template names it as the kernel likes. */
int op_net_device(struct ctx *c, const struct step *s)
{
    struct blob addresses = plan_blob(&c->plan, s->arg[1]);
    struct ifreq request;
    int fd, ret;

    memset(&request, 0, sizeof request);
    request.ifr_ifindex = (int)s->arg[0];
    fd = ret = (int)res(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (ret >= 0)
        ret = res(ioctl(fd, SIOCGIFNAME, &request));
    if (ret >= 0) {
        set_detail(c, request.ifr_name);
        ret = addresses.size > 0 ? add_addresses(addresses, (uint32_t)s->arg[0]) : 0;
    }
    if (ret >= 0)
        ret = set_up(fd, request.ifr_name);
    close_fd(&fd);
    return ret < 0 ? ret : 0;
}
