//! What SQS's answers mean, against a local server that speaks its protocol.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use tokio::net::TcpListener;

use super::*;

/// Answers every request with this status and body, in SQS's JSON protocol.
async fn sqs(status: u16, body: &'static str) -> String {
    let app = Router::new().fallback(async move || {
        let kind = [("content-type", "application/x-amz-json-1.0")];
        (StatusCode::from_u16(status).unwrap(), kind, body).into_response()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// Accepts connections and never answers.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    format!("http://{address}")
}

fn config() -> aws_config::ConfigLoader {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(300)).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .empty_test_environment()
}

async fn read(endpoint: &str) -> Result<Depth, QueueError> {
    let credentials = SharedCredentialsProvider::new(Credentials::for_tests());
    let reader = AwsReader::new(config().credentials_provider(credentials).load().await);
    reader.read(&address(endpoint)).await
}

fn address(endpoint: &str) -> QueueAddress {
    QueueAddress {
        url: format!("{endpoint}/000000000000/prompts"),
        name: "prompts".into(),
        region: "us-east-1".into(),
        endpoint: Some(endpoint.into()),
    }
}

#[tokio::test]
async fn counts_are_read() {
    let body = r#"{"Attributes":{"ApproximateNumberOfMessages":"50","ApproximateNumberOfMessagesNotVisible":"4","ApproximateNumberOfMessagesDelayed":"1"}}"#;
    assert_eq!(read(&sqs(200, body).await).await, Ok(Depth { visible: 50, in_flight: 4, delayed: 1 }));
}

#[tokio::test]
async fn an_answer_without_counts_is_unknown_and_not_zero() {
    let error = read(&sqs(200, r#"{"Attributes":{"ApproximateNumberOfMessages":"0"}}"#).await).await.unwrap_err();
    assert_eq!(error.reason(), "QueueUnreachable");
    assert!(error.to_string().contains("holds no ApproximateNumberOfMessagesNotVisible"), "{error}");
}

#[tokio::test]
async fn every_refusal_has_its_reason_and_names_the_queue() {
    let table = [
        (
            400,
            r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#,
            "QueueNotFound",
            "create it",
        ),
        (400, r#"{"__type":"AWS.SimpleQueueService.NonExistentQueue","message":"no"}"#, "QueueNotFound", "create it"),
        (
            403,
            r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"User: u is not authorized"}"#,
            "QueueAccessDenied",
            "sqs:GetQueueAttributes",
        ),
        (
            400,
            r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slow down"}"#,
            "QueueThrottled",
            "slow down",
        ),
        (
            403,
            r#"{"__type":"com.amazon.coral.service#UnrecognizedClientException","message":"The security token is invalid"}"#,
            "CredentialsMissing",
            "IRSA",
        ),
        (
            403,
            r#"{"__type":"InvalidClientTokenId","message":"The security token is invalid"}"#,
            "CredentialsMissing",
            "IRSA",
        ),
        (500, "{}", "QueueUnreachable", "spec.queue.endpoint"),
    ];
    for (status, body, reason, words) in table {
        let error = read(&sqs(status, body).await).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.reason(), reason, "{body}: {text}");
        assert!(text.contains("prompts") && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn silence_and_a_closed_port_are_unreachable() {
    for endpoint in [silent().await, "http://127.0.0.1:9".to_owned()] {
        let error = read(&endpoint).await.unwrap_err();
        assert_eq!(error.reason(), "QueueUnreachable", "{error}");
        assert!(error.to_string().contains(&endpoint), "{error}");
    }
}

#[tokio::test]
async fn missing_credentials_are_told_apart_from_a_missing_network() {
    let reader = AwsReader::new(config().load().await);
    let error = reader.read(&address(&sqs(200, "{}").await)).await.unwrap_err();
    assert_eq!(error.reason(), "CredentialsMissing", "{error}");
}

/// Whoever has ten thousand queues does not open ten thousand connections at its start.
#[tokio::test]
async fn calls_under_way_are_bounded() {
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = (Arc::clone(&under_way), Arc::clone(&most));
    let app = Router::new().fallback(move || {
        let (under_way, most) = seen.clone();
        async move {
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            StatusCode::BAD_REQUEST
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let credentials = SharedCredentialsProvider::new(Credentials::for_tests());
    let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_mins(1)).build();
    let config = config().timeout_config(timeouts).credentials_provider(credentials).load().await;
    let (reader, address) = (AwsReader::new(config), address(&endpoint));
    futures::future::join_all((0..4 * CALLS).map(|_| reader.read(&address))).await;
    let most = most.load(Ordering::SeqCst);
    assert!((2..=CALLS).contains(&most), "{most} at once");
}
