"""The HTTP side: three paths, GET only, each answered from what was seen last."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from connector.settings import Config
from connector.web import metrics, probes
from connector.web.seen import Seen

# A monitor and a probe or two; who opens more connections waits, and is hung up on after the time limit.
REQUESTS_MAX = 16
REQUEST_S = 5.0
PLAIN = "text/plain; charset=utf-8"


class Server(ThreadingHTTPServer):
    """Answers from `look()`. Threads end with the process."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], config: Config, look: Callable[[], Seen]) -> None:
        self.config = config
        self.look = look
        self._room = threading.BoundedSemaphore(REQUESTS_MAX)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(timeout=REQUEST_S):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is nobody's fault; the library would print a traceback."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        now_s = time.monotonic()
        seen = self.server.look()
        match url.path:
            case "/metrics":
                self._answer(200, metrics.text(seen, self.server.config, now_s), CONTENT_TYPE_PLAIN_0_0_4)
            case "/livez":
                self._probe(probes.live(seen, now_s))
            case "/readyz":
                party = parse_qs(url.query).get("party", [""])[0]
                self._probe(probes.ready(seen, now_s, party))
            case _:
                self._answer(404, b"/metrics, /livez, /readyz\n", PLAIN)

    def _probe(self, probe: probes.Probe) -> None:
        self._answer(200 if probe.good else 503, probe.text.encode(), PLAIN)

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response_only(code)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"), ("Connection", "close"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are not logged: a probe every second would drown the log."""
