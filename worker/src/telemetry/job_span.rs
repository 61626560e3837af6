//! The span of a job and its phases, in the words of OpenTelemetry's conventions for messaging.

use std::time::{Instant, SystemTime};

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

use super::traces::tracer;
use crate::job::JobHead;
use crate::message::Message;
use crate::metrics::{Outcome, Phase};

/// One job's span, from received to ended; nothing where nobody collects spans. It ends when it is dropped.
#[derive(Debug, Clone, Default)]
pub struct JobSpan(Option<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    tracer: &'static SdkTracer,
    context: Context,
}

impl JobSpan {
    /// Begins when the message was received, below the span that sent it.
    pub fn start(queue_url: &str, message: &Message, head: &JobHead) -> Self {
        Self(tracer().map(|tracer| Inner { tracer, context: begin(tracer, queue_url, message, head) }))
    }

    /// A phase that has just ended.
    pub fn phase(&self, phase: Phase, began: Instant) {
        self.phase_between(phase, began, Instant::now());
    }

    /// A phase with its times.
    pub fn phase_between(&self, phase: Phase, began: Instant, ended: Instant) {
        let Some(Inner { tracer, context }) = &self.0 else { return };
        let (now, clock) = (Instant::now(), SystemTime::now());
        let at = |instant: Instant| clock.checked_sub(now.saturating_duration_since(instant)).unwrap_or(clock);
        let span = SpanBuilder::from_name(phase.label()).with_kind(SpanKind::Internal).with_start_time(at(began));
        span.start_with_context(*tracer, context).end_with_timestamp(at(ended));
    }

    /// Why the job failed, by its record's code and message.
    pub fn failed(&self, code: &str, message: &str) {
        let Some(Inner { context, .. }) = &self.0 else { return };
        context.span().set_attribute(KeyValue::new("error.type", code.to_owned()));
        context.span().set_status(Status::error(message.to_owned()));
    }

    /// How it ended, which ends the span.
    pub fn ended(self, outcome: Outcome) {
        let Some(Inner { context, .. }) = self.0 else { return };
        context.span().set_attribute(KeyValue::new("millrace.outcome", outcome.label()));
        context.span().end();
    }
}

fn begin(tracer: &SdkTracer, queue_url: &str, message: &Message, head: &JobHead) -> Context {
    let queue = queue_url.trim_end_matches('/').rsplit('/').next().unwrap_or(queue_url).to_owned();
    let name = format!("process {queue}");
    let attributes = [
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.destination.name", queue),
        KeyValue::new("messaging.message.id", message.id.clone()),
        KeyValue::new("aws.sqs.queue.url", queue_url.to_owned()),
        KeyValue::new("millrace.job_id", head.id.clone()),
        KeyValue::new("millrace.form", head.form.name()),
        KeyValue::new("millrace.attempt", i64::from(message.receive_count)),
    ];
    let span = SpanBuilder::from_name(name)
        .with_kind(SpanKind::Consumer)
        .with_start_time(SystemTime::from(message.received_at))
        .with_attributes(attributes);
    let parent = parent(message, head);
    parent.with_span(span.start_with_context(tracer, &parent))
}

/// The span that sent the message.
fn parent(message: &Message, head: &JobHead) -> Context {
    let Some(trace) = &head.trace else { return Context::new() };
    let ids = (TraceId::from_hex(&trace.trace_id), SpanId::from_hex(&trace.parent_id));
    let (Ok(trace_id), Ok(span_id)) = ids else { return Context::new() };
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = message.attributes.get("tracestate").and_then(|text| text.parse::<TraceState>().ok());
    let context = SpanContext::new(trace_id, span_id, flags, true, state.unwrap_or_default());
    Context::new().with_remote_span_context(context)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

    use super::*;
    use crate::job::Trace;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn message() -> Message {
        let sqs = aws_sdk_sqs::types::Message::builder().message_id("m-1").receipt_handle("h").body("x").build();
        let mut message = Message::from_sqs(sqs, Instant::now()).unwrap();
        message.attributes.insert("tracestate".into(), "vendor=1".into());
        message
    }

    /// What is exported of a job whose message has this trace.
    fn spans(trace: Option<Trace>) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let tracer: &'static SdkTracer = Box::leak(Box::new(provider.tracer("test")));
        let head = JobHead { id: "job-7".into(), trace, ..JobHead::new("m-1", String::new()) };
        let context = begin(tracer, "http://localstack:4566/000000000000/prompts", &message(), &head);
        let span = JobSpan(Some(Inner { tracer, context }));
        let now = Instant::now();
        span.phase_between(
            Phase::Inference,
            now.checked_sub(Duration::from_secs(3)).unwrap(),
            now.checked_sub(Duration::from_secs(1)).unwrap(),
        );
        span.failed("ModelError", "NaN");
        span.ended(Outcome::Failed);
        kept.0.lock().unwrap().clone()
    }

    fn trace(sampled: bool) -> Trace {
        Trace { trace_id: TRACE.into(), parent_id: PARENT.into(), sampled }
    }

    #[test]
    fn a_job_goes_on_with_its_producers_trace() {
        let spans = spans(Some(trace(true)));
        let [phase, job] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((job.name.as_ref(), &job.span_kind), ("process prompts", &SpanKind::Consumer));
        assert_eq!(job.span_context.trace_id().to_string(), TRACE);
        assert_eq!(job.span_context.trace_state().header(), "vendor=1");
        assert_eq!((job.parent_span_id.to_string().as_str(), job.parent_span_is_remote), (PARENT, true));
        assert_eq!(job.status, Status::error("NaN"));
        let has = |key: &str| job.attributes.iter().find(|a| a.key.as_str() == key).map(|a| a.value.to_string());
        for (key, value) in [
            ("messaging.system", "aws_sqs"),
            ("messaging.destination.name", "prompts"),
            ("messaging.message.id", "m-1"),
            ("millrace.job_id", "job-7"),
            ("error.type", "ModelError"),
            ("millrace.outcome", "failed"),
        ] {
            assert_eq!(has(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!((phase.name.as_ref(), phase.parent_span_id), ("inference", job.span_context.span_id()));
        assert_eq!(phase.end_time.duration_since(phase.start_time).unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn the_producer_decides_whether_its_trace_is_recorded() {
        assert!(spans(Some(trace(false))).is_empty());
        let own = spans(None);
        assert_eq!(own.len(), 2);
        assert_eq!(own[1].parent_span_id, SpanId::INVALID);
    }

    #[test]
    fn without_a_collector_there_is_no_span() {
        let span = JobSpan::start("http://h/0/q", &message(), &JobHead::new("m-1", String::new()));
        span.phase(Phase::Upload, Instant::now());
        assert!(span.0.is_none());
        span.ended(Outcome::Completed);
    }
}
