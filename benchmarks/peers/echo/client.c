/* SPDX-License-Identifier: MIT */
/*
 * The client of benchmarks/loop.py: client HOST:PORT|PATH CONNECTIONS SIZE REQUESTS
 *
 * Each connection sends a message of SIZE bytes, waits for all of it to come back, and sends the next, until REQUESTS
 * are answered in all. It never sleeps, so that the server alone decides how long a request takes. What comes back is
 * compared. Prints the nanoseconds that it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct connection {
    int fd;
    size_t sent;
    size_t received;
};

static size_t size;
static char *message;
static char *answer;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int connect_to(const char *where)
{
    const char *colon = strchr(where, ':');
    int one = 1;
    int fd;

    if (colon == NULL) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        strncpy(address.sun_path, where, sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            fail("connect");
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};

        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            fail("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return fd;
}

static void send_some(struct connection *connection)
{
    while (connection->sent < size) {
        ssize_t done = send(connection->fd, message + connection->sent, size - connection->sent, MSG_DONTWAIT);

        if (done < 0 && errno == EAGAIN)
            return;
        if (done < 0)
            fail("send");
        connection->sent += (size_t)done;
    }
}

/* 1 if the whole message is back. */
static int receive_some(struct connection *connection)
{
    ssize_t done = recv(connection->fd, answer, size - connection->received, MSG_DONTWAIT);

    if (done < 0 && errno == EAGAIN)
        return 0;
    if (done <= 0)
        fail("recv");
    if (memcmp(answer, message + connection->received, (size_t)done) != 0) {
        fprintf(stderr, "the answer is not what was sent\n");
        exit(1);
    }
    connection->received += (size_t)done;
    return connection->received == size;
}

int main(int argc, char **argv)
{
    struct connection *connections;
    struct timespec start, end;
    long count, requests, started, answered = 0;
    int epoll = epoll_create1(0);

    if (argc != 5) {
        fprintf(stderr, "client HOST:PORT|PATH CONNECTIONS SIZE REQUESTS\n");
        return 2;
    }
    count = atol(argv[2]);
    size = (size_t)atol(argv[3]);
    requests = atol(argv[4]);
    connections = calloc((size_t)count, sizeof *connections);
    message = malloc(size);
    answer = malloc(size);
    if (connections == NULL || message == NULL || answer == NULL || epoll < 0)
        fail("set-up");
    for (size_t i = 0; i < size; i++)
        message[i] = (char)(i * 31 + i / 256);
    for (long i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &connections[i]};

        connections[i].fd = connect_to(argv[1]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) != 0)
            fail("epoll_ctl");
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (started = 0; started < count && started < requests; started++)
        send_some(&connections[started]);
    while (answered < requests) {
        struct epoll_event events[128];
        int ready = epoll_wait(epoll, events, 128, 0);

        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;

            if (connection->sent == 0)
                continue;
            send_some(connection);
            while (receive_some(connection)) {
                answered++;
                connection->sent = connection->received = 0;
                if (started == requests)
                    break;
                started++;
                send_some(connection);
            }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec);
    return 0;
}
