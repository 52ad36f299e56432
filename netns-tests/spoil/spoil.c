/* A kernel on which an offload does not work, for netns-tests/offload.rs: stands between a program and the C library
 * (LD_PRELOAD) and lets system calls fail or spoils what they return. SPOIL names what. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define UDP 17
#define UDP_SEGMENT 103
#define UDP_GRO 104
#define TUNSETOFFLOAD 0x400454d0UL

static int spoils(const char *what) {
    const char *spoiled = getenv("SPOIL");
    return spoiled && strcmp(spoiled, what) == 0;
}

static int fails(int error) {
    errno = error;
    return -1;
}

static struct cmsghdr *find(struct msghdr *message, int type) {
    struct cmsghdr *beside = CMSG_FIRSTHDR(message);
    while (beside && !(beside->cmsg_level == UDP && beside->cmsg_type == type))
        beside = CMSG_NXTHDR(message, beside);
    return beside;
}

static int is_loopback(const struct msghdr *message) {
    const struct sockaddr_in *to = message->msg_name;
    return to && to->sin_family == AF_INET && ntohl(to->sin_addr.s_addr) >> 24 == 127;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    return request == TUNSETOFFLOAD && spoils("tun") ? fails(EINVAL) : real(fd, request, argument);
}

/* A super-packet is written as its header, its first packet, and payloads. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    return count > 2 && spoils("tun_write") ? fails(EINVAL) : real(fd, parts, count);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    int segments = find((struct msghdr *)message, UDP_SEGMENT) && !is_loopback(message);
    return segments && spoils("udp_send") ? fails(EIO) : real(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    ssize_t (*real)(int, struct msghdr *, int) = dlsym(RTLD_NEXT, "recvmsg");
    ssize_t bytes = real(fd, message, flags);
    if (bytes <= 0 || !find(message, UDP_GRO) || !spoils(is_loopback(message) ? "udp" : "udp_receive"))
        return bytes;
    for (ssize_t at = 40; at < bytes; at += 100)
        ((char *)message->msg_iov[0].iov_base)[at] ^= 1;
    return bytes;
}
