"""A batch's trace: one span for it and one for each stage, with counts and seconds only."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connector.runtime.traces import ENDPOINT, Traces


def test_stages_are_laid_end_to_end_inside_the_batch() -> None:
    told = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(told))
    Traces(provider.get_tracer("uji")).batch({"audit_seq": 7, "updated": 3}, {"read": 0.25, "apply": 0.5})
    spans = {span.name: span for span in told.get_finished_spans()}
    batch, read, apply = spans["batch"], spans["read"], spans["apply"]
    assert dict(batch.attributes or {}) == {"audit_seq": 7, "updated": 3}
    assert batch.start_time == read.start_time
    assert read.end_time == apply.start_time
    assert apply.end_time == batch.end_time
    assert [span.parent and span.parent.span_id for span in (read, apply)] == [batch.context.span_id] * 2


def test_nothing_is_told_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    Traces.from_environment("uji").batch({"audit_seq": 1}, {"read": 1.0})
