//! Spans of one incident, across processes: a parent is a `traceparent` that travelled in an object, not a thread.

use std::time::SystemTime;

use evergreen_api::TraceParent;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan};

/// Makes the spans of incidents.
#[derive(Clone, Debug)]
pub struct IncidentTracer {
    tracer: SdkTracer,
}

/// One span of an incident; it ends when it is ended or dropped.
#[derive(Debug)]
pub struct IncidentSpan {
    span: SdkSpan,
}

impl IncidentTracer {
    pub(crate) fn new(tracer: SdkTracer) -> Self {
        Self { tracer }
    }

    /// A tracer whose spans have their ids but go nowhere: for tests and for one-shot commands.
    pub fn unexported() -> Self {
        Self::new(SdkTracerProvider::builder().build().tracer("evergreen"))
    }

    /// Starts a new trace.
    pub fn root(&self, name: &'static str, attributes: Vec<KeyValue>) -> IncidentSpan {
        self.start(name.into(), attributes, &Context::new(), None)
    }

    /// Starts a span below one that another process, or this one earlier, began.
    pub fn child(
        &self,
        parent: TraceParent,
        name: impl Into<std::borrow::Cow<'static, str>>,
        attributes: Vec<KeyValue>,
    ) -> IncidentSpan {
        self.start(name.into(), attributes, &remote(parent), None)
    }

    /// As [`Self::child`], begun at an earlier moment.
    pub fn child_since(
        &self,
        parent: TraceParent,
        name: impl Into<std::borrow::Cow<'static, str>>,
        attributes: Vec<KeyValue>,
        start: SystemTime,
    ) -> IncidentSpan {
        self.start(name.into(), attributes, &remote(parent), Some(start))
    }

    fn start(
        &self,
        name: std::borrow::Cow<'static, str>,
        attributes: Vec<KeyValue>,
        parent: &Context,
        start: Option<SystemTime>,
    ) -> IncidentSpan {
        let mut builder = self.tracer.span_builder(name).with_kind(SpanKind::Internal).with_attributes(attributes);
        if let Some(start) = start {
            builder = builder.with_start_time(start);
        }
        IncidentSpan { span: self.tracer.build_with_context(builder, parent) }
    }
}

impl IncidentSpan {
    /// What a child in another process needs to know.
    pub fn traceparent(&self) -> TraceParent {
        let context = self.span.span_context();
        TraceParent {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
        }
    }

    /// Adds an attribute.
    pub fn set(&mut self, attribute: KeyValue) {
        self.span.set_attribute(attribute);
    }

    /// Adds something that happened at this moment.
    pub fn event(&mut self, name: impl Into<std::borrow::Cow<'static, str>>, attributes: Vec<KeyValue>) {
        self.span.add_event(name, attributes);
    }

    /// Ends well.
    pub fn end(mut self) {
        self.span.set_status(Status::Ok);
        self.span.end();
    }

    /// Ends with an error.
    pub fn fail(mut self, why: impl Into<std::borrow::Cow<'static, str>>) {
        self.span.set_status(Status::error(why));
        self.span.end();
    }
}

fn remote(parent: TraceParent) -> Context {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        flags,
        true,
        TraceState::default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_in_another_process_continues_the_trace() {
        let (agent, controller) = (SdkTracerProvider::builder().build(), SdkTracerProvider::builder().build());
        let root = IncidentTracer::new(agent.tracer("t")).root("problem.detected", Vec::new());
        let carried: TraceParent = root.traceparent().to_string().parse().unwrap();
        let child = IncidentTracer::new(controller.tracer("t")).child(carried, "playbook.match", Vec::new());
        assert_eq!(child.traceparent().trace_id, root.traceparent().trace_id);
        assert_ne!(child.traceparent().span_id, root.traceparent().span_id);
        assert!(child.traceparent().sampled);
    }
}
