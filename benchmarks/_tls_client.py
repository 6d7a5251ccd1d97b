# SPDX-License-Identifier: MIT
"""The client of the TLS echo server: python -m benchmarks._tls_client HOST:PORT CERTIFICATE CONNECTIONS SIZE REQUESTS

Sends a message of SIZE bytes on every connection, waits for all of them to come back, and sends the next, until
REQUESTS are answered. What comes back is compared.
"""

from __future__ import annotations

import socket
import ssl
import sys


def main() -> None:
    where, certificate, *numbers = sys.argv[1:]
    host, _, port = where.partition(":")
    count, size, requests = map(int, numbers)
    context = ssl.create_default_context(cafile=certificate)
    connections = []
    for _ in range(count):
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.append(context.wrap_socket(sock, server_hostname="localhost"))
    message = bytes(index * 31 & 255 for index in range(size))
    for _ in range(requests // count):
        for connection in connections:
            connection.sendall(message)
        for connection in connections:
            answer = b""
            while len(answer) < size:
                answer += connection.recv(size - len(answer)) or sys.exit("the server has closed the connection")
            if answer != message:
                sys.exit("the answer is not what was sent")


if __name__ == "__main__":
    main()
