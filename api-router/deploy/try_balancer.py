#!/usr/bin/env python3
"""Runs the balancer's configuration before two routers that this script plays, on loopback ports.

    try_balancer.py HAPROXY CONFIGURATION

What must hold: a router that is not ready is sent nothing; a router that cannot be reached costs no request; a write whose
connection breaks after it was sent is reported to the client, and is never sent a second time.
"""

import http.client
import http.server
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_SECONDS = 20


class Router(http.server.ThreadingHTTPServer):
    """A router that counts what it is sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.is_ready, self.breaks, self.writes = True, False, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address):
        """A connection that the balancer closes is not reported."""


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.server.is_ready else 503)

    def do_POST(self):
        self.server.writes += 1
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.breaks:
            # Simulates a router that is killed while it works.
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.answer(201)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Single requests are not logged."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask(port, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def until(what, is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.05)


def configured(path, routers, port, probe):
    """The configuration, with the addresses of this machine, and where names need not be looked up."""
    text = open(path).read()
    for number, router in enumerate(routers, 1):
        text, found = re.subn(rf"router{number}:3000", f"127.0.0.1:{router}", text)
        assert found == 1, f"router{number}"
    for old, new in [("bind :8080", f"bind 127.0.0.1:{port}"), ("bind 127.0.0.1:8404", f"bind 127.0.0.1:{probe}")]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def check(routers, port, probe):
    write = lambda: ask(port, "POST", "/api/write")
    writes = lambda: [router.writes for router in routers]
    until("serving", lambda: write() == 201)
    assert ask(probe, "GET", "/live") == 200

    routers[0].is_ready = False
    # Requests sent to it before the balancer noticed are not errors.
    until("away from who is not ready", lambda: routers_that_answer(port, routers) == {1})
    routers[0].is_ready = True
    until("back to who is ready again", lambda: routers_that_answer(port, routers) == {0, 1})

    for router in routers:
        router.breaks = True
    before = sum(writes())
    assert write() in (502, None), "a write whose connection broke is reported"
    assert sum(writes()) == before + 1, "and was sent once"
    for router in routers:
        router.breaks = False

    routers[1].shutdown()
    routers[1].server_close()
    answers = [write() for _ in range(20)]
    assert answers == [201] * 20, f"a router that is gone costs no request: {answers}"
    routers[0].is_ready = False
    until("reporting that no router is ready", lambda: write() == 503)


def routers_that_answer(port, routers):
    """Which of them have answered some writes."""
    before = [router.writes for router in routers]
    for _ in range(6):
        ask(port, "POST", "/api/write")
    return {at for at, router in enumerate(routers) if router.writes > before[at]}


def main(haproxy, configuration):
    routers = [Router(), Router()]
    port, probe = free_port(), free_port()
    text = configured(configuration, [router.server_address[1] for router in routers], port, probe)
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(text)
        file.flush()
        process = subprocess.Popen([haproxy, "-f", file.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            check(routers, port, probe)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    print("the balancer keeps to who is ready, and sent no write twice")


if __name__ == "__main__":
    main(*sys.argv[1:])
