"""Sends every kind of telemetry with OpenTelemetry's own Python SDK: python_sdk.py grpc|http ENDPOINT [TOKEN]

Prints what it sent as one JSON object, for the test to compare with what the plane has.
"""

import json
import logging
import sys
import time

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

protocol, endpoint, token = sys.argv[1], sys.argv[2], (sys.argv[3:] or [""])[0]
headers = {"authorization": f"Bearer {token}"} if token else None
if protocol == "grpc":
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    common = {"insecure": True, "compression": Compression.Gzip, "headers": tuple(headers.items()) if headers else None}
    ends = {signal: {"endpoint": endpoint, **common} for signal in ("traces", "metrics", "logs")}
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    common = {"compression": Compression.Gzip, "headers": headers}
    ends = {signal: {"endpoint": f"{endpoint}/v1/{signal}", **common} for signal in ("traces", "metrics", "logs")}

service = f"python-{protocol}"
resource = Resource.create({"service.name": service, "service.instance.id": "one", "evergreen.site": "dc-py"})
tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**ends["traces"])))
reader = PeriodicExportingMetricReader(OTLPMetricExporter(**ends["metrics"]), export_interval_millis=3_600_000)
meters = MeterProvider(
    resource=resource,
    metric_readers=[reader],
    views=[View(instrument_type=Histogram, instrument_name="py.exponential", aggregation=ExponentialBucketHistogramAggregation())],
)
loggers = LoggerProvider(resource=resource)
loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**ends["logs"])))
set_logger_provider(loggers)

with tracers.get_tracer("test").start_as_current_span("outer", attributes={"bank": "绿"}) as outer:
    with tracers.get_tracer("test").start_as_current_span("inner"):
        handler = logging.getLogger("test")
        handler.addHandler(LoggingHandler(logger_provider=loggers))
        handler.error("a record of a span")
    trace_id = format(outer.get_span_context().trace_id, "032x")

meter = meters.get_meter("test")
meter.create_counter("py.counter", unit="1").add(5, {"kind": "a"})
meter.create_up_down_counter("py.updown").add(-3)
meter.create_gauge("py.gauge").set(1.5)
explicit, exponential = meter.create_histogram("py.explicit"), meter.create_histogram("py.exponential")
values = [0.0, 0.5, 1.0, 3.0, 70.0, 9000.0]
for value in values:
    explicit.record(value)
    exponential.record(value)
for provider in (tracers, meters, loggers):
    provider.force_flush()
time.sleep(0.2)
for provider in (tracers, meters, loggers):
    provider.shutdown()
print(json.dumps({"trace_id": trace_id, "service": service, "count": len(values), "sum": sum(values)}))
