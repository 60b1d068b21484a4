// Sends every kind of telemetry with OpenTelemetry's own Node SDK: node_sdk.mjs grpc|proto|json ENDPOINT [TOKEN]
// Prints what it sent as one JSON object, for the test to compare with what the plane has.
import { createRequire } from 'node:module'

// The packages lie outside of the source tree: $EVERGREEN_NODE_PRODUCER is the folder with their package.json.
const require = createRequire(process.env.EVERGREEN_NODE_PRODUCER + '/')
const [protocol, endpoint, token] = process.argv.slice(2)
const { resourceFromAttributes } = require('@opentelemetry/resources')
const { BasicTracerProvider, BatchSpanProcessor } = require('@opentelemetry/sdk-trace-base')
const { MeterProvider, PeriodicExportingMetricReader, AggregationType } = require('@opentelemetry/sdk-metrics')
const { LoggerProvider, BatchLogRecordProcessor } = require('@opentelemetry/sdk-logs')
const { context, trace } = require('@opentelemetry/api')
const exporter = (signal) => require(`@opentelemetry/exporter-${signal}-otlp-${{ json: 'http' }[protocol] ?? protocol}`)

let metadata
if (protocol === 'grpc' && token) {
  const { Metadata } = require('@grpc/grpc-js')
  metadata = new Metadata()
  metadata.set('authorization', `Bearer ${token}`)
}
const options = (signal) =>
  protocol === 'grpc'
    ? { url: endpoint, compression: 'gzip', metadata }
    : { url: `${endpoint}/v1/${signal}`, compression: 'gzip', headers: token ? { authorization: `Bearer ${token}` } : {} }

const service = `node-${protocol}`
const resource = resourceFromAttributes({ 'service.name': service, 'service.instance.id': 'one', 'evergreen.site': 'dc-node' })
const spans = new BatchSpanProcessor(new (exporter('trace').OTLPTraceExporter)(options('traces')))
const tracers = new BasicTracerProvider({ resource, spanProcessors: [spans] })
const reader = new PeriodicExportingMetricReader({
  exporter: new (exporter('metrics').OTLPMetricExporter)(options('metrics')),
  exportIntervalMillis: 3_600_000,
})
const meters = new MeterProvider({
  resource,
  readers: [reader],
  views: [{ instrumentName: 'node.exponential', aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM } }],
})
const logs = new BatchLogRecordProcessor(new (exporter('logs').OTLPLogExporter)(options('logs')))
const loggers = new LoggerProvider({ resource, processors: [logs] })
// Older ones take processors this way only.
loggers.addLogRecordProcessor?.(logs)

const tracer = tracers.getTracer('test')
const outer = tracer.startSpan('outer', { attributes: { bank: '绿' } })
const within = trace.setSpan(context.active(), outer)
const inner = tracer.startSpan('inner', {}, within)
loggers.getLogger('test').emit({ severityNumber: 17, body: 'a record of a span', context: trace.setSpan(within, inner) })
inner.end()
outer.end()

const meter = meters.getMeter('test')
meter.createCounter('node.counter').add(5, { kind: 'a' })
meter.createUpDownCounter('node.updown').add(-3)
meter.createGauge('node.gauge').record(1.5)
const [explicit, exponential] = [meter.createHistogram('node.explicit'), meter.createHistogram('node.exponential')]
const values = [0, 0.5, 1, 3, 70, 9000]
for (const value of values) {
  explicit.record(value)
  exponential.record(value)
}
await Promise.all([tracers.forceFlush(), meters.forceFlush(), loggers.forceFlush()])
await Promise.all([tracers.shutdown(), meters.shutdown(), loggers.shutdown()])
const sum = values.reduce((a, b) => a + b, 0)
console.log(JSON.stringify({ trace_id: outer.spanContext().traceId, service, count: values.length, sum }))
