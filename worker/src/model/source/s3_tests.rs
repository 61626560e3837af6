//! The S3 source against LocalStack (MILLRACE_TEST_ENDPOINT), and against canned answers for what LocalStack never says.

use std::sync::{Arc, Mutex};

use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_s3::primitives::ByteStream;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, Uri};

use super::*;

fn client_of(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

fn source(uri: &str, endpoint: &str) -> S3Source {
    S3Source { uri: uri.into(), region: None, endpoint: Some(endpoint.into()), variant: None }
}

/// A bucket of its own on LocalStack.
struct Bucket {
    client: Client,
    endpoint: String,
    name: String,
    cache: tempfile::TempDir,
}

impl Bucket {
    /// None, and the reason on stderr, where there is no LocalStack to test against.
    async fn new(name: &str) -> Option<Self> {
        let Ok(endpoint) = std::env::var("MILLRACE_TEST_ENDPOINT") else {
            eprintln!("{name} skipped: MILLRACE_TEST_ENDPOINT is not set (`make test` starts LocalStack and sets it)");
            return None;
        };
        let client = client_of(&endpoint);
        let name = format!("{name}-{:08x}", rand::random::<u32>());
        client.create_bucket().bucket(&name).send().await.unwrap();
        Some(Self { client, endpoint, name, cache: tempfile::tempdir().unwrap() })
    }

    async fn put(&self, key: &str, content: &str) {
        let body = ByteStream::from(content.as_bytes().to_vec());
        self.client.put_object().bucket(&self.name).key(key).body(body).send().await.unwrap();
    }

    fn source(&self, folder: &str) -> S3Source {
        source(&format!("s3://{}/{folder}", self.name), &self.endpoint)
    }

    fn store(&self, folder: &str) -> S3Folder {
        S3Folder::new(self.client.clone(), &self.source(folder)).unwrap()
    }

    /// Fetches the folder; also how many bytes were downloaded for it.
    async fn fetch(&self, folder: &str) -> Result<(Fetched, u64), SourceError> {
        let progress = Progress::new("test");
        let (fetched, _) = fetch_with(self.client.clone(), &self.source(folder), self.cache.path(), &progress).await?;
        Ok((fetched, progress.done_bytes()))
    }
}

fn read(fetched: &Fetched, path: &str) -> String {
    std::fs::read_to_string(fetched.dir.join(path)).unwrap()
}

#[tokio::test]
async fn a_folder_is_fetched_once() {
    let Some(bucket) = Bucket::new("fetch-once").await else { return };
    bucket.put("models/tiny/model_index.json", "{}").await;
    bucket.put("models/tiny/unet/model.safetensors", "0123456789").await;
    bucket.put("models/tiny/", "").await; // as consoles mark folders
    bucket.put("models/tiny-other/model_index.json", "not this").await;
    let (first, bytes) = bucket.fetch("models/tiny").await.unwrap();
    assert_eq!(bytes, 12);
    assert_eq!(
        (read(&first, "model_index.json"), read(&first, "unet/model.safetensors")),
        ("{}".into(), "0123456789".into())
    );
    assert_eq!(std::fs::read_dir(&first.dir).unwrap().count(), 2);

    assert_eq!(bucket.fetch("models/tiny").await.unwrap(), (first.clone(), 0));

    // the same objects under another name are the same revision
    bucket.put("copy/model_index.json", "{}").await;
    bucket.put("copy/unet/model.safetensors", "0123456789").await;
    let (copy, _) = bucket.fetch("copy/").await.unwrap();
    assert_eq!(copy.revision, first.revision);
    assert_ne!(copy.dir, first.dir);
}

#[tokio::test]
async fn what_changed_or_was_truncated_is_downloaded_again() {
    let Some(bucket) = Bucket::new("changed").await else { return };
    bucket.put("m/model_index.json", "{}").await;
    bucket.put("m/a.safetensors.index.json", "[]").await;
    bucket.put("m/unet/model.safetensors", "0123456789").await;
    let (first, _) = bucket.fetch("m").await.unwrap();

    std::fs::write(first.dir.join("unet/model.safetensors"), "0123").unwrap();
    let (second, bytes) = bucket.fetch("m").await.unwrap();
    assert_eq!((bytes, read(&second, "unet/model.safetensors")), (10, "0123456789".into()));
    assert_eq!(second.revision, first.revision);

    bucket.put("m/unet/model.safetensors", "9876543210").await;
    let (third, bytes) = bucket.fetch("m").await.unwrap();
    assert_eq!((bytes, read(&third, "unet/model.safetensors")), (10, "9876543210".into()));
    assert_ne!(third.revision, first.revision);
}

#[tokio::test]
async fn more_than_a_page_of_objects_is_listed() {
    let Some(bucket) = Bucket::new("pages").await else { return };
    let keys: Vec<String> = (0..1001).map(|n| format!("m/{n:04}.json")).collect();
    stream::iter(&keys).for_each_concurrent(16, |key| bucket.put(key, "1")).await;
    let store = bucket.store("m");
    assert_eq!(store.list().await.unwrap().files.len(), 1001);
}

#[tokio::test]
async fn a_range_goes_on_in_the_listed_object_only() {
    let Some(bucket) = Bucket::new("range").await else { return };
    bucket.put("m/model.safetensors", "0123456789").await;
    let store = bucket.store("m");
    let file = store.list().await.unwrap().files.remove(0);
    let rest: Vec<_> = store.open(&file, "", 4..9).await.unwrap().collect().await;
    let rest: Vec<u8> = rest.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect();
    assert_eq!(rest, b"45678");

    bucket.put("m/model.safetensors", "9876543210").await;
    let error = store.open(&file, "", 4..9).await.err().unwrap();
    assert_eq!(error.reason(), "ModelIncomplete");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn an_object_has_the_checksum_that_it_was_put_with() {
    let Some(bucket) = Bucket::new("checksum").await else { return };
    bucket.put("m/model.safetensors", "0123456789").await;
    let mut store = bucket.store("m");
    store.piece = 4;
    let file = store.list().await.unwrap().files.remove(0);
    let path = bucket.cache.path().join("file");
    std::fs::write(&path, "0123456789").unwrap();
    assert!(store.checksum(&file, "").await.unwrap().unwrap().is_of(&path).unwrap());

    let progress = Progress::new("test");
    let (fetched, _) = download::fetch(&store, None, &bucket.cache.path().join("m"), &progress).await.unwrap();
    assert_eq!((read(&fetched, "model.safetensors"), progress.done_bytes()), ("0123456789".into(), 10));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let Some(bucket) = Bucket::new("missing").await else { return };
    bucket.put("sdxl-turbo/model_index.json", "{}").await;
    let error = bucket.fetch("sdxl").await.unwrap_err();
    assert_eq!(error.reason(), "ModelNotFound");
    assert!(error.to_string().contains(&format!("s3://{}/sdxl ", bucket.name)), "{error}");

    let gone = source("s3://millrace-no-such-bucket/m", &bucket.endpoint);
    let error = fetch_with(bucket.client.clone(), &gone, bucket.cache.path(), &Progress::new("t")).await.unwrap_err();
    assert_eq!(error.reason(), "ModelBucketNotFound");
    assert!(error.to_string().contains("millrace-no-such-bucket") && !error.retryable(), "{error}");
}

#[tokio::test]
async fn a_key_that_leads_out_of_the_folder_is_refused() {
    let Some(bucket) = Bucket::new("escape").await else { return };
    bucket.put("m/model_index.json", "{}").await;
    bucket.put("m/a/../../evil.json", "{}").await;
    let error = bucket.fetch("m").await.unwrap_err();
    assert_eq!(error.reason(), "ModelUnsafePath");
    assert!(error.to_string().contains("a/../../evil.json"), "{error}");
}

type Headers = &'static [(&'static str, &'static str)];

/// A server that answers every request alike.
async fn canned(status: u16, headers: Headers, code: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = move || async move {
        let response =
            headers.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
        response.body(Body::from(format!("<Error><Code>{code}</Code><Message>said so</Message></Error>"))).unwrap()
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    endpoint
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let cases: [(u16, Headers, &str, &str, &str); 7] = [
        (403, &[], "AccessDenied", "ModelAccessDenied", "allow s3:ListBucket"),
        (403, &[], "InvalidAccessKeyId", "CredentialsRejected", "replace or renew"),
        (400, &[], "ExpiredToken", "CredentialsRejected", "ExpiredToken: said so"),
        (
            301,
            &[("x-amz-bucket-region", "eu-west-1")],
            "PermanentRedirect",
            "ModelWrongRegion",
            "in eu-west-1: set model.source.s3.region",
        ),
        (400, &[], "AuthorizationHeaderMalformed", "ModelWrongRegion", "not in region us-east-1"),
        (404, &[], "NoSuchBucket", "ModelBucketNotFound", "bucket models does not exist"),
        (503, &[], "SlowDown", "ModelSourceUnreachable", "SlowDown: said so"),
    ];
    for (status, headers, code, reason, text) in cases {
        let endpoint = canned(status, headers, code).await;
        let cache = tempfile::tempdir().unwrap();
        let source = source("s3://models/sdxl", &endpoint);
        let error = fetch_with(client_of(&endpoint), &source, cache.path(), &Progress::new("t")).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{code}: {error}");
        assert!(error.to_string().contains(text), "{code}: {error}");
        assert!(error.to_string().contains("models"), "{code}: {error}");
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_unreachable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let cache = tempfile::tempdir().unwrap();
    let source = source("s3://models/sdxl", &endpoint);
    let error = fetch_with(client_of(&endpoint), &source, cache.path(), &Progress::new("t")).await.unwrap_err();
    assert_eq!(error.reason(), "ModelSourceUnreachable");
    assert!(error.retryable() && error.to_string().contains(&endpoint), "{error}");
}

#[tokio::test]
async fn a_worker_without_credentials_is_told_so() {
    let endpoint = canned(200, &[], "").await;
    // what the default chain comes to where nothing is configured, whatever this machine has
    let profile = ProfileFileCredentialsProvider::builder().profile_name("millrace-none").build();
    let nothing = CredentialsProviderChain::first_try("Profile", profile);
    let client = Client::from_conf(client_of(&endpoint).config().to_builder().credentials_provider(nothing).build());
    let cache = tempfile::tempdir().unwrap();
    let source = source("s3://models/sdxl", &endpoint);
    let error = fetch_with(client, &source, cache.path(), &Progress::new("t")).await.unwrap_err();
    assert_eq!(error.reason(), "CredentialsMissing", "{error}");
    assert!(error.to_string().contains("ServiceAccount"), "{error}");
}

#[tokio::test]
async fn only_s3_uris_are_taken() {
    for uri in ["https://models/sdxl", "s3://", "models"] {
        let error = S3Folder::new(client_of("http://localhost"), &source(uri, "http://localhost")).err().unwrap();
        assert_eq!(error.reason(), "ModelSourceInvalid", "{uri}");
    }
}

/// One object, served as S3 does as far as it goes.
#[derive(Debug, Clone, Copy)]
struct Object {
    /// What HEAD says besides.
    headers: Headers,
    knows_ranges: bool,
}

type Requests = Arc<Mutex<Vec<String>>>;

const CONTENT: &str = "0123456789";
/// Of `CONTENT`.
const CRC32: &str = "poTHxg==";

impl Object {
    /// Its server, and the requests that came to it.
    async fn serve(self) -> (String, Requests) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Requests::default();
        let seen = Arc::clone(&requests);
        let answer = move |method: Method, uri: Uri, headers: HeaderMap| {
            let header = |name: &str| headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
            let (range, etag) = (header("range"), header("if-match"));
            if !uri.path().ends_with(".safetensors") {
                let size = CONTENT.len();
                return std::future::ready(Response::new(Body::from(format!(
                    "<ListBucketResult><Contents><Key>m/model.safetensors</Key><Size>{size}</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>"
                ))));
            }
            seen.lock().unwrap().push(format!("{method} {range} {etag}"));
            let range =
                range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).filter(|_| self.knows_ranges);
            let content = range.map_or(CONTENT, |(from, to)| &CONTENT[from.parse().unwrap()..=to.parse().unwrap()]);
            let response = self.headers.iter().fold(Response::builder(), |r, (name, value)| r.header(*name, *value));
            let body = if method == Method::HEAD { Body::empty() } else { Body::from(content) };
            std::future::ready(response.body(body).unwrap())
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        (endpoint, requests)
    }

    async fn fetch(self) -> (Result<String, SourceError>, Vec<String>) {
        let (endpoint, requests) = self.serve().await;
        let mut store = S3Folder::new(client_of(&endpoint), &source("s3://models/m", &endpoint)).unwrap();
        store.piece = 4;
        let cache = tempfile::tempdir().unwrap();
        let fetched = download::fetch(&store, None, cache.path(), &Progress::new("t")).await;
        let content = fetched.map(|(fetched, _)| read(&fetched, "model.safetensors"));
        let mut requests = std::mem::take(&mut *requests.lock().unwrap());
        requests.sort();
        (content, requests)
    }
}

#[tokio::test]
async fn a_large_object_is_read_in_ranges_of_one_state_and_checked() {
    let right: Headers = &[("x-amz-checksum-crc32", CRC32), ("x-amz-checksum-type", "FULL_OBJECT")];
    let (content, requests) = Object { headers: right, knows_ranges: true }.fetch().await;
    assert_eq!(content.unwrap(), CONTENT);
    let all = ["GET bytes=0-3 \"e\"", "GET bytes=4-7 \"e\"", "GET bytes=8-9 \"e\"", "HEAD - \"e\""];
    assert_eq!(requests, all);

    let wrong: Headers = &[("x-amz-checksum-crc32", "AAAAAA==")];
    let error = Object { headers: wrong, knows_ranges: true }.fetch().await.0.unwrap_err();
    assert_eq!(error.reason(), "ModelIncomplete");
    assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("crc32"), "{error}");

    // a checksum of the parts' checksums says nothing of the whole, and not every object has one
    let composite: Headers = &[("x-amz-checksum-crc32", "AAAAAA==-3"), ("x-amz-checksum-type", "COMPOSITE")];
    for headers in [composite, &[("x-amz-checksum-crc32", "AAAAAA==-3")], &[]] {
        assert_eq!(Object { headers, knows_ranges: true }.fetch().await.0.unwrap(), CONTENT, "{headers:?}");
    }
}

#[tokio::test]
async fn a_store_without_ranges_is_noticed_before_anything_is_written() {
    let (endpoint, _) = Object { headers: &[], knows_ranges: false }.serve().await;
    let store = S3Folder::new(client_of(&endpoint), &source("s3://models/m", &endpoint)).unwrap();
    let file = store.list().await.unwrap().files.remove(0);
    let error = store.open(&file, "", 4..8).await.err().unwrap();
    assert_eq!(error.reason(), "ModelIncomplete");
    assert!(error.to_string().contains("10 bytes came for the range 4..8"), "{error}");
}
