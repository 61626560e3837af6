//! Objects that messages point to, read within bounds: bodies that lie in S3, and what S3 events tell of.
//!
//! S3 trouble is waited out as everywhere. An object that is not there, or that may not be read, can never be a job.

use std::sync::Arc;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use bytes::{Bytes, BytesMut};
use millrace_api::MAX_OBJECT;
use tokio_util::sync::CancellationToken;

use crate::aws::{CREDENTIALS_FIX, Trouble, explain, precondition_failed, trouble};
use crate::job::ObjectRef;
use crate::metrics::Metrics;
use crate::model::InvalidInput;
use crate::store::{Bucket, BucketError, GivenUp};

/// Most bytes of an object: every job that a worker holds may have one in memory.
pub const MAX_BYTES: u64 = MAX_OBJECT as u64;

/// Reads input objects. Which buckets may be read is decided where messages are decoded.
#[derive(Debug, Clone)]
pub struct Inputs {
    s3: aws_sdk_s3::Client,
    /// How trouble is waited out, and told.
    bucket: Bucket,
    metrics: Arc<Metrics>,
}

/// Why an object was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The lease was lost or the worker stops.
    #[error("given up")]
    GivenUp,
    /// It can never be read.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
}

/// What one try came to.
type Tried = Result<Result<Bytes, InvalidInput>, BucketError>;

impl Inputs {
    /// Reads by the client and with the patience of the consumer's `bucket`.
    pub fn new(s3: aws_sdk_s3::Client, bucket: Bucket, metrics: Arc<Metrics>) -> Self {
        Self { s3, bucket, metrics }
    }

    /// An object's content.
    pub async fn read(&self, object: &ObjectRef, give_up: &CancellationToken) -> Result<Bytes, ReadError> {
        if let Some(size) = object.size.filter(|size| *size > MAX_BYTES) {
            return Err(too_large(object, size).into());
        }
        let tried = self.bucket.persist(|| self.try_to_read(object), give_up).await;
        Ok(tried.map_err(|GivenUp| ReadError::GivenUp)??)
    }

    async fn try_to_read(&self, object: &ObjectRef) -> Tried {
        let get = self.s3.get_object().bucket(&object.bucket).key(&object.key);
        let get = get.set_version_id(object.version.clone());
        // what was put over it since is another job's
        let get = get.set_if_match(object.etag.as_ref().map(|etag| format!("\"{etag}\"")));
        let answer = get.send().await;
        let refused = answer.as_ref().is_err_and(|error| why_never(object, error).is_some());
        self.metrics.request("GetObject", answer.is_ok() || refused);
        match answer {
            Ok(answer) => collect(object, answer).await,
            Err(error) => match why_never(object, &error) {
                Some(invalid) => Ok(Err(invalid)),
                None => Err(words(object, trouble(&error), &explain(&error))),
            },
        }
    }
}

/// The content, unless there is more of it than was told or allowed.
async fn collect(object: &ObjectRef, mut answer: GetObjectOutput) -> Tried {
    let told = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
    if told > MAX_BYTES {
        return Ok(Err(too_large(object, told)));
    }
    let mut content = BytesMut::with_capacity(usize::try_from(told).unwrap_or_default());
    while let Some(chunk) = answer.body.next().await {
        content.extend_from_slice(&chunk.map_err(|e| words(object, Trouble::Unreachable, &e.to_string()))?);
        let bytes = content.len() as u64;
        if bytes > MAX_BYTES {
            return Ok(Err(too_large(object, bytes)));
        }
    }
    Ok(Ok(content.freeze()))
}

fn too_large(object: &ObjectRef, bytes: u64) -> InvalidInput {
    InvalidInput::body(format!("{object} has {bytes} bytes; an input has at most {MAX_BYTES}"))
}

/// Why an answer means that the object can never be read; none for trouble that passes.
fn why_never(object: &ObjectRef, error: &SdkError<GetObjectError>) -> Option<InvalidInput> {
    let action = if object.version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
    let why = if precondition_failed(error) {
        "was replaced before it was read; the newer content is its own event's job".to_owned()
    } else {
        match trouble(error) {
            Trouble::NotFound => format!("is not there ({})", explain(error)),
            Trouble::AccessDenied => format!(
                "cannot be read ({}): allow the worker's role {action} on the object, and s3:ListBucket on the bucket \
                 (without it a missing object reads as forbidden)",
                explain(error)
            ),
            Trouble::Other => format!(
                "cannot be read ({}): it must lie in the region and at the endpoint of output.bucket, and not be archived",
                explain(error)
            ),
            Trouble::Credentials | Trouble::Throttled | Trouble::Unreachable => return None,
        }
    };
    Some(InvalidInput::body(format!("{object} {why}")))
}

fn words(object: &ObjectRef, trouble: Trouble, detail: &str) -> BucketError {
    let (reason, fix) = match trouble {
        Trouble::Credentials => ("CredentialsMissing", CREDENTIALS_FIX),
        Trouble::Throttled => ("BucketThrottled", "S3 asks for fewer calls; it is tried again"),
        _ => ("BucketUnreachable", "check output.endpoint, DNS and network policies; it is tried again"),
    };
    BucketError { reason, message: format!("s3:GetObject on {object}: {detail}; {fix}") }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::{HeaderMap, Uri};
    use axum::response::IntoResponse;
    use millrace_api::ConditionalWrites;
    use tokio::net::TcpListener;

    use super::*;
    use crate::state::State;

    /// What the store answers, in turn; and what it was asked.
    #[derive(Debug, Default)]
    struct Script {
        answers: VecDeque<(u16, String)>,
        asked: Vec<(Uri, HeaderMap)>,
    }

    fn refusal(code: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>no</Message></Error>")
    }

    /// A reader of a store that answers so, once each.
    async fn reader(answers: &[(u16, String)]) -> (Inputs, Arc<Mutex<Script>>) {
        let script = Arc::new(Mutex::new(Script { answers: answers.iter().cloned().collect(), asked: Vec::new() }));
        let server = Arc::clone(&script);
        let answer = move |uri: Uri, headers: HeaderMap| {
            let server = Arc::clone(&server);
            async move {
                let mut server = server.lock().unwrap();
                server.asked.push((uri, headers));
                let (status, body) = server.answers.pop_front().unwrap();
                (axum::http::StatusCode::from_u16(status).unwrap(), body).into_response()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_s3::config::Credentials::for_tests())
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .endpoint_url(endpoint)
            .force_path_style(true)
            .build();
        let s3 = aws_sdk_s3::Client::from_conf(s3);
        let text = "consumer: {namespace: a, name: b}\nqueue: {url: 'http://h/0/q', region: r}\nmodel: {task: Echo}\noutput: {bucket: b}";
        let metrics = Arc::new(Metrics::new(&serde_yaml::from_str(text).unwrap()));
        let state = Arc::new(State::new("w".into(), 1));
        let bucket = Bucket::new(s3.clone(), "b", "out/", ConditionalWrites::Required, state, Arc::clone(&metrics));
        (Inputs::new(s3, bucket, metrics), script)
    }

    fn object() -> ObjectRef {
        ObjectRef { bucket: "uploads".into(), key: "in/a b".into(), version: None, etag: None, size: None }
    }

    #[tokio::test]
    async fn reads_just_the_content_that_the_message_means() {
        let (inputs, script) = reader(&[(200, "one".into()), (200, "two".into())]).await;
        let tagged = ObjectRef { etag: Some("abc".into()), ..object() };
        assert_eq!(inputs.read(&tagged, &CancellationToken::new()).await.unwrap(), "one");
        let versioned = ObjectRef { version: Some("v1".into()), ..object() };
        assert_eq!(inputs.read(&versioned, &CancellationToken::new()).await.unwrap(), "two");
        let script = script.lock().unwrap();
        assert_eq!(script.asked[0].1["if-match"], "\"abc\"");
        assert_eq!(script.asked[0].0.path(), "/uploads/in/a%20b");
        assert!(script.asked[1].0.query().unwrap().contains("versionId=v1"));
    }

    #[tokio::test]
    async fn trouble_is_waited_out() {
        let answers = [(503, refusal("SlowDown")), (500, String::new()), (200, "a cat".into())];
        let (inputs, script) = reader(&answers).await;
        assert_eq!(inputs.read(&object(), &CancellationToken::new()).await.unwrap(), "a cat");
        assert_eq!(script.lock().unwrap().asked.len(), 3);
    }

    #[tokio::test]
    async fn what_can_never_be_read_says_why_at_once() {
        for (status, code, version, wanted) in [
            (404, "NoSuchKey", None, "s3://uploads/in/a b is not there (NoSuchKey: no)"),
            (404, "NoSuchBucket", None, "s3://uploads/in/a b is not there (NoSuchBucket: no)"),
            (403, "AccessDenied", None, "allow the worker's role s3:GetObject on the object, and s3:ListBucket"),
            (403, "AccessDenied", Some("v1"), "allow the worker's role s3:GetObjectVersion on the object"),
            (412, "PreconditionFailed", None, "was replaced before it was read"),
            (301, "PermanentRedirect", None, "it must lie in the region and at the endpoint of output.bucket"),
        ] {
            let (inputs, script) = reader(&[(status, refusal(code))]).await;
            let object = ObjectRef { version: version.map(str::to_owned), ..object() };
            let error = inputs.read(&object, &CancellationToken::new()).await.unwrap_err();
            assert!(matches!(error, ReadError::Invalid(_)), "{code}");
            assert!(error.to_string().contains(wanted), "{code}: {error}");
            assert_eq!(script.lock().unwrap().asked.len(), 1);
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_held() {
        let too_much = "x".repeat(usize::try_from(MAX_BYTES).unwrap() + 1);
        let (inputs, script) = reader(&[(200, too_much)]).await;
        let wanted = "s3://uploads/in/a b has 67108865 bytes; an input has at most 67108864";
        let told = ObjectRef { size: Some(MAX_BYTES + 1), ..object() };
        for (object, asked) in [(told, 0), (object(), 1)] {
            let error = inputs.read(&object, &CancellationToken::new()).await.unwrap_err();
            assert_eq!((error.to_string().as_str(), script.lock().unwrap().asked.len()), (wanted, asked));
        }
    }

    #[tokio::test]
    async fn who_gives_up_waits_no_longer() {
        let (inputs, _) = reader(&[(503, refusal("SlowDown"))]).await;
        let give_up = CancellationToken::new();
        give_up.cancel();
        assert_eq!(inputs.read(&object(), &give_up).await, Err(ReadError::GivenUp));
    }
}
