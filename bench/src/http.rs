//! What a worker or an operator says over HTTP: plain GETs on a kept connection, and counters out of /metrics.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// GETs.
#[derive(Debug, Clone)]
pub struct Http(Client<HttpConnector, Empty<Bytes>>);

impl Default for Http {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Http {
    /// The body of a page that answers 200.
    pub async fn get(&self, url: &str) -> anyhow::Result<Bytes> {
        let uri = url.parse().with_context(|| format!("not a URL: {url}"))?;
        let answer = self.0.get(uri).await.with_context(|| format!("GET {url}"))?;
        let status = answer.status();
        anyhow::ensure!(status.is_success(), "GET {url}: {status}");
        Ok(answer.into_body().collect().await.with_context(|| format!("GET {url}"))?.to_bytes())
    }
}

/// One series of a page in Prometheus' text.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: String,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value. Ours hold no quotes.
    pub fn label(&self, name: &str) -> Option<&str> {
        let of = |pair: &'_ str| -> bool { pair.strip_prefix(name).is_some_and(|rest| rest.starts_with("=\"")) };
        let pair = self.labels.split("\",").find(|pair| of(pair))?;
        Some(pair[name.len() + 2..].trim_end_matches('"'))
    }
}

/// All series called `name`.
pub fn samples(page: &str, name: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Sample { labels: labels.into(), value })
    };
    page.lines().filter_map(sample).collect()
}

/// The sum of all series called `name`.
pub fn sum(page: &str, name: &str) -> f64 {
    samples(page, name).iter().map(|sample| sample.value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# TYPE millrace_calls counter
millrace_calls_total{namespace="a",operation="Receive",outcome="ok"} 61
millrace_calls_total{namespace="a",operation="Delete, all",outcome="ok"} 2.5
millrace_calls_total_of_others{operation="Receive"} 9
millrace_leader 1.0
"#;

    #[test]
    fn series_are_read_by_name_and_label() {
        let calls = samples(PAGE, "millrace_calls_total");
        let operations: Vec<_> = calls.iter().map(|s| (s.label("operation"), s.value)).collect();
        assert_eq!(operations, [(Some("Receive"), 61.0), (Some("Delete, all"), 2.5)]);
        assert_eq!((calls[0].label("outcome"), calls[0].label("space")), (Some("ok"), None));
        assert!((sum(PAGE, "millrace_calls_total") - 63.5).abs() < 1e-9);
        assert!((sum(PAGE, "millrace_leader") - 1.0).abs() < 1e-9);
    }
}
