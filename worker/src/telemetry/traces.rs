//! Export of spans by OTLP over HTTP, where the standard OTEL_* variables ask for it. Without them nothing is made and
//! nothing runs. A collector that is away or asked for wrongly is a warning: no job waits for it or fails by it.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Runtime;

/// What `OTEL_SERVICE_NAME` is by default.
const SERVICE: &str = "millrace-worker";
/// Longest that a collector may take over a batch of spans.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that the end of the process waits for the last batch.
const LAST_BATCH: Duration = Duration::from_secs(5);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Where spans are made; none where nobody collects them.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Sends spans until it is told to finish.
#[derive(Debug)]
#[must_use = "spans that are still held are sent by finish"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Begins to collect spans if the environment asks for it.
    pub fn start() -> Self {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let provider = match wanted(&env) {
            Ok(false) => return Self(None),
            Ok(true) => provider(&env).map_err(|error| error.to_string()),
            Err(problem) => Err(problem),
        };
        match provider {
            Ok(provider) => {
                // a second start changes nothing
                let _ = TRACER.set(provider.tracer(SERVICE));
                Self(Some(provider))
            }
            Err(error) => {
                tracing::warn!(error, "no traces are sent");
                Self(None)
            }
        }
    }

    /// Sends what is left.
    pub fn finish(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(LAST_BATCH)) {
            tracing::warn!(%error, "the last spans may not have been sent");
        }
    }
}

/// Whether spans are to be sent; an error says what of the wish cannot be met.
fn wanted(env: &dyn Fn(&str) -> Option<String>) -> Result<bool, String> {
    let is_true = |value: String| value.eq_ignore_ascii_case("true");
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find_map(env);
    if endpoint.is_none() || env("OTEL_SDK_DISABLED").is_some_and(is_true) {
        return Ok(false);
    }
    match env("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(false),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER={other} is not known here: use otlp or none")),
    }
    let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    match protocols.iter().find_map(|name| Some((name, env(name)?))) {
        Some((name, protocol)) if protocol != "http/protobuf" => Err(format!(
            "{name}={protocol} is not spoken here: use http/protobuf, which collectors take at port 4318 as a rule"
        )),
        _ => Ok(true),
    }
}

fn provider(env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().with_http_client(Sender::new()?).build()?;
    let found = Resource::builder().build();
    let resource = Resource::builder().with_attributes(attributes(&found, env)).build();
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

/// Who sends the spans, as far as OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME do not say it.
fn attributes(found: &Resource, env: &dyn Fn(&str) -> Option<String>) -> Vec<KeyValue> {
    let named = env("OTEL_SERVICE_NAME").is_some()
        || env("OTEL_RESOURCE_ATTRIBUTES")
            .is_some_and(|list| list.split(',').any(|a| a.trim().starts_with("service.name=")));
    let ours = [
        ("service.version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("service.instance.id", Some(crate::run::worker_name())),
        ("k8s.pod.name", env("POD_NAME")),
        ("k8s.namespace.name", env("POD_NAMESPACE")),
    ];
    let missing = ours.into_iter().filter(|(key, _)| found.get_ref(&(*key).into()).is_none());
    let name = (!named).then(|| KeyValue::new("service.name", SERVICE));
    missing.filter_map(|(key, value)| Some(KeyValue::new(key, value?))).chain(name).collect()
}

/// Posts batches. They come one at a time on the exporter's own thread, which drives this client's own runtime: so the
/// last batch can be sent when the worker's runtime is gone.
#[derive(Debug)]
struct Sender {
    runtime: Runtime,
    client: reqwest::Client,
}

impl Sender {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // nobody looks after a connection between two batches
        let client = reqwest::Client::builder().timeout(TIMEOUT).pool_max_idle_per_host(0).build()?;
        Ok(Self { runtime, client })
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime.block_on(async {
            let answer = self.client.execute(request.try_into()?).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    fn env(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let set: Vec<(String, String)> = set.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        move |name| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn spans_are_sent_where_an_endpoint_is_named() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<bool>);
        let table: [Case; 10] = [
            (&[], Some(false)),
            (&[("OTEL_SERVICE_NAME", "x")], Some(false)),
            (&[ENDPOINT], Some(true)),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces")], Some(true)),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")], Some(false)),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")], Some(true)),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], Some(false)),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")], None),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None),
            (
                &[
                    ENDPOINT,
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
                ],
                Some(true),
            ),
        ];
        for (set, expected) in table {
            assert_eq!(wanted(&env(set)).ok(), expected, "{set:?}");
        }
    }

    #[test]
    fn the_environment_may_name_the_service_and_its_place() {
        let told = |found: &[(&'static str, &'static str)], set: &[(&str, &str)]| {
            let found = found.iter().map(|&(key, value)| KeyValue::new(key, value));
            let found = Resource::builder_empty().with_attributes(found).build();
            let told = attributes(&found, &env(set));
            told.into_iter().map(|a| (a.key.to_string(), a.value.to_string())).collect::<Vec<_>>()
        };
        let has = |told: &[(String, String)], key: &str| told.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let plain = told(&[], &[("POD_NAME", "sdxl-1"), ("POD_NAMESPACE", "demo")]);
        assert_eq!(has(&plain, "service.name").as_deref(), Some(SERVICE));
        assert_eq!(has(&plain, "k8s.pod.name").as_deref(), Some("sdxl-1"));
        assert_eq!(has(&plain, "k8s.namespace.name").as_deref(), Some("demo"));
        let named = told(&[("k8s.pod.name", "theirs")], &[("OTEL_SERVICE_NAME", "x"), ("POD_NAME", "sdxl-1")]);
        assert_eq!((has(&named, "service.name"), has(&named, "k8s.pod.name")), (None, None));
        let listed = told(&[], &[("OTEL_RESOURCE_ATTRIBUTES", "team=a, service.name=x")]);
        assert_eq!(has(&listed, "service.name"), None);
    }
}
