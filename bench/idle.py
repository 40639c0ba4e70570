"""Hold connections that do nothing, from a process of their own: ``python idle.py PORT COUNT``.

Each asks once and then keeps its connection. Prints ``ready`` when all have their answer; at the
end of standard input prints how many are still open.
"""

import select
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TIMEOUT = 10


def ask(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"Hello, World!"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"closed after {answer!r}")
        answer += part
    return connection


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    held = [ask(port) for _ in range(count)]
    print("ready", flush=True)
    sys.stdin.read()
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN)
    # Nothing was asked, so a readable connection is one that the server has closed.
    print(len(held) - len(poll.poll(0)), flush=True)
    for connection in held:
        connection.close()


if __name__ == "__main__":
    main()
