"""A daemon sends a trace per batch to a collector; one that is away costs no batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from workbench import Workbench

Make = Callable[..., Workbench]


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes what is sent; gives its address and the bodies."""
    taken: list[bytes] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", taken
        server.shutdown()


def test_a_collector_hears_of_each_batch_and_of_no_cell(make_workbench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    with collector() as (address, taken):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        bench = make_workbench("uji", people=30)
        bench.start()
        bench.await_state("uji", "streaming")
        bench.parties["uji"].run("update public.orang set nama = nama || ' X' where orang_id <= 7")
        bench.check("uji")
        bench.wait_until(lambda: b"commit" in b"".join(taken), "the collector has heard of a batch")
        said = b"".join(taken)
    assert b"sipol-connector" in said
    assert b"ORANG" not in said
    assert b"327301" not in said
    # The collector is gone; the next batch does not mind.
    bench.parties["uji"].run("update public.orang set nama = nama || ' Y' where orang_id <= 7")
    bench.check("uji")
