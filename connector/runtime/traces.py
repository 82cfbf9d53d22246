"""One OpenTelemetry trace for each batch, where it is wanted: the `otel` extra, and OTEL_EXPORTER_OTLP_ENDPOINT set.

A trace holds what the batch's log line holds: names, counts and seconds, never a cell. It is sent by a thread of the
library; a collector that is slow or away costs traces, and no batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from connector import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Traces that wait for the collector; more are dropped.
WAITING_MAX = 512


class Traces:
    """Tells of batches that are done. Without a tracer, of none."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @classmethod
    def from_environment(cls, party: str) -> Traces:
        """As OpenTelemetry's own variables say; nothing where they say nothing."""
        if not os.environ.get(ENDPOINT):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            structlog.get_logger().warning("traces_unavailable", hint="pip install 'sipol-connector[otel]'")
            return cls()
        resource = Resource.create({"service.name": "sipol-connector", "service.version": __version__, "party": party})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=WAITING_MAX))
        return cls(provider.get_tracer("connector", __version__))

    def batch(self, facts: Mapping[str, str | int], stages: Mapping[str, float]) -> None:
        """Tell of a batch that ended just now: a span for it, and one for each stage, laid end to end.

        Args:
            facts: as in its log line.
            stages: seconds by stage, in the order they begin; stages that take turns are told as one stretch each.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import set_span_in_context

        end = time.time_ns()
        at = end - sum(_ns(seconds) for seconds in stages.values())
        whole = self._tracer.start_span("batch", start_time=at, attributes=dict(facts))
        inside = set_span_in_context(whole)
        for stage, seconds in stages.items():
            span = self._tracer.start_span(stage, context=inside, start_time=at)
            at += _ns(seconds)
            span.end(at)
        whole.end(end)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
