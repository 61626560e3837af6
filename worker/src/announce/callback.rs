//! Announcements to a `callback_url`: one POST of the record, signed, to nowhere but where the consumer allows.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use millrace_api::{CallbackHosts, ReplyFormat};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, StatusCode, Url};
use sha2::Sha256;

use super::address::{AddressError, Guard};
use super::notice::{Notice, trace};
use super::{Failure, SetupError, not_allowed};
use crate::message::Message;

const SIGNATURE: HeaderName = HeaderName::from_static("millrace-signature");
const JOB_ID: HeaderName = HeaderName::from_static("millrace-job-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an answer that is read: enough to use its connection again, too little to be kept busy by.
const MAX_ANSWER: usize = 16 * 1024;

/// The worker's side of callbacks.
#[derive(Clone)]
pub(super) struct Callbacks {
    client: Client,
    hosts: CallbackHosts,
    /// Keyed with the consumer's secret.
    signer: Option<Hmac<Sha256>>,
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callbacks")
            .field("hosts", &self.hosts)
            .field("signs", &self.signer.is_some())
            .finish_non_exhaustive()
    }
}

impl Callbacks {
    /// Redirects are not followed and no proxy is asked: either would lead past the guard.
    pub(super) fn new(hosts: CallbackHosts, secret: Option<&str>) -> Result<Self, SetupError> {
        let client = Client::builder()
            .user_agent(concat!("millrace-worker/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Guard { hosts: hosts.clone() })
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()?;
        let signer = secret.map(|secret| Hmac::new_from_slice(secret.as_bytes())).transpose();
        let signer = signer.map_err(|_| SetupError::SecretMissing)?;
        Ok(Self { client, hosts, signer })
    }

    /// Calls once.
    pub(super) async fn call(&self, url: &str, notice: &Notice<'_>, message: &Message) -> Result<(), Failure> {
        let url = self.hosts.permit(url).map_err(|error| not_allowed(&error))?;
        let shown = shown(&url);
        let request = self.request(url, notice, message, Timestamp::now());
        let mut answer = self.client.execute(request).await.map_err(|error| unanswered(&shown, &error))?;
        let status = answer.status();
        let verdict =
            if status.is_success() { Ok(()) } else { Err(refused(&shown, status, answer.headers().get(RETRY_AFTER))) };
        let mut read = 0;
        while read < MAX_ANSWER {
            // the status was all that counts
            let Ok(Some(chunk)) = answer.chunk().await else { break };
            read += chunk.len();
        }
        verdict
    }

    fn request(&self, url: Url, notice: &Notice<'_>, message: &Message, now: Timestamp) -> Request {
        let body = notice.body(ReplyFormat::Record);
        let mut request = Request::new(Method::POST, url);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let signature = self.signer.as_ref().map(|signer| signature(signer, now.as_second(), &body));
        let key = notice.key(message);
        let ours = [(JOB_ID, Some(notice.job_id())), (IDEMPOTENCY_KEY, Some(&key)), (SIGNATURE, signature.as_deref())];
        let ours = ours.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let traced = trace(message).map(|(name, value)| (HeaderName::from_static(name), value));
        for (name, value) in ours.chain(traced) {
            // a trace that is no header value is no trace
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        *request.body_mut() = Some(body.into());
        request
    }
}

/// `t=1700000000,v1=…`: HMAC-SHA256, in lower-case hex, of the time, a dot and the body.
fn signature(signer: &Hmac<Sha256>, at: i64, body: &str) -> String {
    let mut signer = signer.clone();
    signer.update(format!("{at}.").as_bytes());
    signer.update(body.as_bytes());
    format!("t={at},v1={}", hex::encode(signer.finalize().into_bytes()))
}

/// A URL for messages: without what may be secret in it.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn unanswered(url: &str, error: &reqwest::Error) -> Failure {
    let mut detail = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(address) = cause.downcast_ref::<AddressError>() {
            let message = format!("callback_url {url}: {address}");
            return Failure { reason: "CallbackNotAllowed", message, passes: false, wait: None };
        }
        detail.push(cause.to_string());
        source = cause.source();
    }
    if error.is_timeout() {
        detail.push(format!("no answer within {} s", TIMEOUT.as_secs()));
    }
    let message = format!("callback_url {url}: {}; check that it can be reached from the worker", detail.join(": "));
    Failure { reason: "CallbackUnreachable", message, passes: true, wait: None }
}

fn refused(url: &str, status: StatusCode, retry_after: Option<&HeaderValue>) -> Failure {
    let (reason, passes, fix) = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            ("CallbackUnreachable", true, "it is tried again")
        }
        _ if status.is_server_error() => ("CallbackUnreachable", true, "it is tried again"),
        _ if status.is_redirection() => ("CallbackRefused", false, "redirects are not followed: name the place itself"),
        _ => ("CallbackRefused", false, "correct callback_url, or what answers there"),
    };
    let wait = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    Failure { reason, message: format!("callback_url {url}: answered {status}; {fix}"), passes, wait }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::announce::tests::{message, record};

    fn callbacks(hosts: &[&str], secret: Option<&str>) -> Callbacks {
        let list: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        Callbacks::new(CallbackHosts::parse(&list).unwrap(), secret).unwrap()
    }

    /// Python: `hmac.new(b"whsec_7", b'1700000000.{"job_id":"job-7"}', "sha256").hexdigest()`
    #[test]
    fn the_signature_is_what_anybody_computes() {
        let signer = Hmac::new_from_slice(b"whsec_7").unwrap();
        assert_eq!(
            signature(&signer, 1_700_000_000, r#"{"job_id":"job-7"}"#),
            "t=1700000000,v1=db3a7c65c509947475ec8e4c6628d376945cea3e8e98f2c66e4ef635e246c62c"
        );
    }

    #[test]
    fn a_request_has_the_record_and_its_headers() {
        let record = record(&json!({ "value": 13 }));
        let notice = Notice::Result { record: &record, uri: "s3://b/k" };
        let message = message("m", &[("traceparent", "00-a-b-01"), ("tracestate", "a\nb")]);
        let url = || Url::parse("https://hooks.test/done?token=1").unwrap();
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let request = callbacks(&[], Some("whsec_7")).request(url(), &notice, &message, at);
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((request.method(), request.url()), (&Method::POST, &url()));
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(header("millrace-job-id").as_deref(), Some("job-7"));
        assert_eq!(header("idempotency-key"), Some(notice.key(&message)));
        assert_eq!((header("traceparent").as_deref(), header("tracestate")), (Some("00-a-b-01"), None));
        let body = std::str::from_utf8(request.body().unwrap().as_bytes().unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<millrace_api::ResultRecord>(body).unwrap(), record);
        let signer = Hmac::new_from_slice(b"whsec_7").unwrap();
        assert_eq!(header("millrace-signature"), Some(signature(&signer, 1_700_000_000, body)));
        let unsigned = callbacks(&[], None).request(url(), &notice, &message, at);
        assert!(!unsigned.headers().contains_key("millrace-signature"));
    }

    #[test]
    fn what_is_secret_in_a_url_is_not_shown() {
        let url = Url::parse("https://user:pass@hooks.test:8443/done?token=1#x").unwrap();
        assert_eq!(shown(&url), "https://hooks.test:8443/done");
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        for (status, passes) in
            [(408, true), (429, true), (500, true), (503, true), (301, false), (400, false), (404, false), (410, false)]
        {
            assert_eq!(refused("u", StatusCode::from_u16(status).unwrap(), None).passes, passes, "{status}");
        }
        let wait = |value: &'static str| {
            refused("u", StatusCode::TOO_MANY_REQUESTS, Some(&HeaderValue::from_static(value))).wait
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[tokio::test]
    async fn nobody_is_called_who_is_not_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = record(&json!({}));
        let notice = Notice::Result { record: &record, uri: "s3://b/k" };
        let message = message("m", &[]);
        for (hosts, host) in [
            (&[][..], "127.0.0.1"),
            (&["localhost"], "127.0.0.1"),
            (&["127.0.0.1"], "localhost"),
            (&["127.0.0.1"], "[::ffff:127.0.0.1]"),
            (&["*.localhost"], "localhost"),
        ] {
            let failure = callbacks(hosts, None).call(&format!("http://{host}:{port}/"), &notice, &message).await;
            let failure = failure.unwrap_err();
            assert_eq!((failure.reason, failure.passes), ("CallbackNotAllowed", false), "{failure:?}");
        }
        // past the look at the URL, the resolver alone must hold
        let guarded = callbacks(&["hooks.test"], None).client;
        let error = guarded
            .execute(Request::new(Method::GET, format!("http://localhost:{port}/").parse().unwrap()))
            .await
            .unwrap_err();
        let failure = unanswered("u", &error);
        assert_eq!((failure.reason, failure.passes), ("CallbackNotAllowed", false), "{failure:?}");
        let waiting = listener.into_std().unwrap().accept();
        assert!(waiting.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "somebody connected");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let record = record(&json!({}));
        let notice = Notice::Result { record: &record, uri: "s3://b/k" };
        let failure = callbacks(&["127.0.0.1"], None).call(&url, &notice, &message("m", &[])).await.unwrap_err();
        assert_eq!((failure.reason, failure.passes), ("CallbackUnreachable", true), "{failure:?}");
    }
}
