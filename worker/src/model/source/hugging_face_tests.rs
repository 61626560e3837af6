//! The hub as hf-hub asks it: a server with its routes, headers, pages, redirects and refusals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use futures::stream;
use sha2::{Digest, Sha256};

use super::*;

const COMMIT: &str = "71153311d3dbb46851df1931d3ca6e939de83304";
const TOKEN: &str = "hf_secret";

/// Files over this many bytes are in LFS: `resolve` redirects to a content server for them.
const LFS: usize = 40;

#[derive(Default)]
struct Hub {
    url: String,
    files: Mutex<BTreeMap<String, String>>,
    requests: Mutex<Vec<String>>,
    commit: Mutex<String>,
    gated: Mutex<bool>,
    /// Listed, and yet not there.
    lost: Mutex<Option<String>>,
    /// The next GET of this file breaks off half-way.
    breaks: Mutex<Option<String>>,
    /// The content server gives other bytes.
    damaged: Mutex<bool>,
}

type Shared = State<Arc<Hub>>;

impl Hub {
    async fn start(files: &[(&str, &str)]) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            files: Mutex::new(files.iter().map(|(p, c)| ((*p).to_owned(), (*c).to_owned())).collect()),
            commit: Mutex::new(COMMIT.into()),
            ..Self::default()
        });
        let routes = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(info))
            .route("/api/models/{owner}/{name}/tree/{revision}", get(tree))
            .route("/{owner}/{name}/resolve/{revision}/{*path}", get(resolve))
            .route("/content/{*path}", get(content))
            .layer(axum::middleware::from_fn_with_state(hub.clone(), record))
            .with_state(hub.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        hub
    }

    /// Paths that were downloaded since the last call, with the range where one was asked for.
    fn downloads(&self) -> Vec<String> {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        let prefix = format!("GET /acme/tiny/resolve/{}/", self.commit.lock().unwrap());
        let mut paths: Vec<String> =
            requests.iter().filter_map(|r| r.strip_prefix(&prefix)).map(str::to_owned).collect();
        paths.sort();
        paths
    }

    fn source(&self) -> HuggingFaceSource {
        HuggingFaceSource {
            repository: "acme/tiny".into(),
            revision: "main".into(),
            variant: None,
            endpoint: Some(self.url.clone()),
            token_secret_ref: None,
        }
    }
}

async fn record(State(hub): Shared, request: Request, next: axum::middleware::Next) -> axum::response::Response {
    let range = request.headers().get(header::RANGE).map(|r| format!(" {}", r.to_str().unwrap())).unwrap_or_default();
    let line = format!("{} {}{range}", request.method(), request.uri().path());
    hub.requests.lock().unwrap().push(line);
    next.run(request).await
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let response = Response::builder().status(status).header("x-error-code", code).header("x-error-message", message);
    response.body(Body::empty()).unwrap()
}

async fn info(
    State(hub): Shared,
    UrlPath((owner, name, revision)): UrlPath<(String, String, String)>,
) -> Response<Body> {
    match (format!("{owner}/{name}").as_str(), revision.as_str()) {
        ("acme/private", _) => refusal(StatusCode::UNAUTHORIZED, "", "Invalid username or password."),
        ("acme/tiny", "main" | COMMIT) => {
            let commit = hub.commit.lock().unwrap().clone();
            Response::new(Body::from(format!(r#"{{"_id":"1","id":"acme/tiny","sha":"{commit}"}}"#)))
        }
        ("acme/tiny", _) => refusal(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id"),
        _ => refusal(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found"),
    }
}

/// Two pages, the second one by the first one's Link header.
async fn tree(
    State(hub): Shared,
    UrlPath((_, _, revision)): UrlPath<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response<Body> {
    assert_eq!(
        revision,
        *hub.commit.lock().unwrap(),
        "listed at the commit, so that a push in between changes nothing"
    );
    let entries: Vec<serde_json::Value> = hub
        .files
        .lock()
        .unwrap()
        .iter()
        .map(|(path, content)| {
            let oid = hex::encode(&Sha256::digest(content)[..20]);
            serde_json::json!({"type": "file", "oid": oid, "size": content.len(), "path": path})
        })
        .chain([serde_json::json!({"type": "directory", "oid": "d", "size": 0, "path": "unet"})])
        .collect();
    let (first, second) = entries.split_at(2);
    let mut response = Response::builder();
    let page = if query.contains_key("cursor") {
        second
    } else {
        assert_eq!(query.get("recursive").map(String::as_str), Some("true"));
        let next = format!("<{}/api/models/acme/tiny/tree/{revision}?recursive=true&cursor=2>; rel=\"next\"", hub.url);
        response = response.header(header::LINK, next);
        first
    };
    response.body(Body::from(serde_json::to_vec(page).unwrap())).unwrap()
}

async fn resolve(
    State(hub): Shared,
    UrlPath((_, _, _, path)): UrlPath<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let authorized =
        headers.get(header::AUTHORIZATION).is_some_and(|value| value == format!("Bearer {TOKEN}").as_str());
    if *hub.gated.lock().unwrap() && !authorized {
        return refusal(StatusCode::UNAUTHORIZED, "GatedRepo", "Access to model acme/tiny is restricted.");
    }
    if hub.lost.lock().unwrap().as_ref() == Some(&path) {
        return refusal(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found");
    }
    let text = hub.files.lock().unwrap()[&path].clone();
    if text.len() <= LFS {
        return bytes(&hub, &path, &headers);
    }
    // As the hub answers for a file in Xet. The content server speaks plain HTTP, too.
    Response::builder()
        .status(StatusCode::FOUND)
        .header(header::LOCATION, format!("{}/content/{path}", hub.url))
        .header("x-repo-commit", hub.commit.lock().unwrap().as_str())
        .header("x-linked-size", text.len())
        .header("x-linked-etag", format!("\"{}\"", hex::encode(Sha256::digest(&text))))
        .header("x-xet-hash", "abc")
        .body(Body::empty())
        .unwrap()
}

async fn content(State(hub): Shared, UrlPath(path): UrlPath<String>, headers: HeaderMap) -> Response<Body> {
    bytes(&hub, &path, &headers)
}

fn bytes(hub: &Hub, path: &str, headers: &HeaderMap) -> Response<Body> {
    let mut text = Bytes::from(hub.files.lock().unwrap()[path].clone());
    if *hub.damaged.lock().unwrap() {
        text = Bytes::from(vec![b'?'; text.len()]);
    }
    let range = headers.get(header::RANGE).map(|range| {
        let (from, to) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        from.parse::<usize>().unwrap()..to.parse::<usize>().unwrap() + 1
    });
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let text = range.map_or(text.clone(), |range| text.slice(range));
    let response =
        Response::builder().status(status).header(header::CONTENT_LENGTH, text.len()).header(header::ETAG, "\"e\"");
    let is_get = hub.requests.lock().unwrap().last().is_some_and(|request| request.starts_with("GET"));
    let mut breaks = hub.breaks.lock().unwrap();
    if is_get && breaks.as_deref() == Some(path) {
        *breaks = None;
        let half = text.slice(..text.len() / 2);
        // the pause lets the half reach the client before the connection goes
        let cut = stream::once(async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            Err(std::io::Error::other("cut"))
        });
        return response.body(Body::from_stream(stream::iter([Ok(half)]).chain(cut))).unwrap();
    }
    response.body(Body::from(text)).unwrap()
}

const UNET: &str = "the weights of a unet, long enough to be kept in LFS";
const REPOSITORY: &[(&str, &str)] = &[
    ("README.md", "# tiny"),
    ("model_index.json", "{}"),
    ("tiny.safetensors", "all of it in one file"),
    ("tokenizer/merges.txt", "a b"),
    ("unet/diffusion_pytorch_model.bin", "pickled"),
    ("unet/diffusion_pytorch_model.fp16.safetensors", "half"),
    ("unet/diffusion_pytorch_model.safetensors", UNET),
];

struct Bench {
    hub: Arc<Hub>,
    cache: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self { hub: Hub::start(REPOSITORY).await, cache: tempfile::tempdir().unwrap() }
    }

    async fn fetch(&self, source: &HuggingFaceSource, token: Option<&str>) -> Result<Fetched, SourceError> {
        let token = token.map(str::to_owned);
        fetch(source, token, self.cache.path(), &Progress::new("tiny")).await.map(|(fetched, _)| fetched)
    }
}

#[tokio::test]
async fn takes_what_a_pipeline_needs_once() {
    let bench = Bench::new().await;
    let source = bench.hub.source();
    let fetched = bench.fetch(&source, None).await.unwrap();
    assert_eq!(fetched.revision.as_deref(), Some(COMMIT));
    assert!(fetched.dir.starts_with(bench.cache.path().join("huggingface")));
    assert_eq!(
        bench.hub.downloads(),
        ["model_index.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.safetensors"]
    );
    let unet = fetched.dir.join("unet/diffusion_pytorch_model.safetensors");
    assert_eq!(std::fs::read_to_string(unet).unwrap(), UNET);

    assert_eq!(bench.fetch(&source, None).await.unwrap(), fetched);
    assert_eq!(bench.hub.downloads(), [""; 0]);
}

#[tokio::test]
async fn takes_the_variant_and_only_it() {
    let bench = Bench::new().await;
    let source = HuggingFaceSource { variant: Some("fp16".into()), ..bench.hub.source() };
    let fetched = bench.fetch(&source, None).await.unwrap();
    assert_eq!(
        bench.hub.downloads(),
        ["model_index.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.fp16.safetensors"]
    );
    assert!(!fetched.dir.join("unet/diffusion_pytorch_model.safetensors").exists());
}

#[tokio::test]
async fn a_new_commit_brings_only_what_changed() {
    let bench = Bench::new().await;
    bench.fetch(&bench.hub.source(), None).await.unwrap();
    bench.hub.downloads();
    let next = "0123456789abcdef0123456789abcdef01234567";
    *bench.hub.commit.lock().unwrap() = next.into();
    bench.hub.files.lock().unwrap().insert("tokenizer/merges.txt".into(), "b c".into());
    let fetched = bench.fetch(&bench.hub.source(), None).await.unwrap();
    assert_eq!(fetched.revision.as_deref(), Some(next));
    assert_eq!(bench.hub.downloads(), ["tokenizer/merges.txt"]);
    assert_eq!(std::fs::read_to_string(fetched.dir.join("tokenizer/merges.txt")).unwrap(), "b c");
}

#[tokio::test]
async fn a_broken_download_goes_on_with_a_range() {
    let bench = Bench::new().await;
    let path = "unet/diffusion_pytorch_model.safetensors";
    *bench.hub.breaks.lock().unwrap() = Some(path.into());
    let fetched = bench.fetch(&bench.hub.source(), None).await.unwrap();
    let half = UNET.len() / 2;
    let rest = format!("{path} bytes={half}-{}", UNET.len() - 1);
    assert!(bench.hub.downloads().contains(&rest));
    assert_eq!(std::fs::read_to_string(fetched.dir.join(path)).unwrap(), UNET);
}

#[tokio::test]
async fn weights_are_what_lfs_says() {
    let bench = Bench::new().await;
    *bench.hub.damaged.lock().unwrap() = true;
    let error = bench.fetch(&bench.hub.source(), None).await.unwrap_err();
    assert_eq!(error.reason(), "ModelIncomplete");
    let path = "unet/diffusion_pytorch_model.safetensors of acme/tiny@main";
    assert!(error.to_string().contains(path) && error.to_string().contains("sha256"), "{error}");
    *bench.hub.damaged.lock().unwrap() = false;
    bench.fetch(&bench.hub.source(), None).await.unwrap();
}

#[tokio::test]
async fn a_gated_repository_wants_a_token() {
    let bench = Bench::new().await;
    *bench.hub.gated.lock().unwrap() = true;
    let secret = millrace_api::SecretKeyRef { name: "hf".into(), key: "token".into() };
    let source = HuggingFaceSource { token_secret_ref: Some(secret), ..bench.hub.source() };
    let error = bench.fetch(&bench.hub.source(), Some("hf_other")).await.unwrap_err();
    assert_eq!(error.reason(), "ModelAccessDenied");
    let error = bench.fetch(&source, Some("hf_other")).await.unwrap_err().to_string();
    for part in ["acme/tiny", "restricted", "accept the conditions at http", "Secret hf, key token"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("hf_other"), "{error}");
    bench.fetch(&source, Some(TOKEN)).await.unwrap();
}

#[tokio::test]
async fn what_the_hub_does_not_have_or_show_is_named() {
    let bench = Bench::new().await;
    let source = bench.hub.source();
    let cases = [
        ("acme/none", "main", "ModelNotFound", "correct huggingFace.repository"),
        ("acme/tiny", "v9", "ModelNotFound", "correct huggingFace.revision"),
        ("acme/private", "main", "ModelAccessDenied", "huggingFace.tokenSecretRef"),
    ];
    for (repository, revision, reason, fix) in cases {
        let source = HuggingFaceSource { repository: repository.into(), revision: revision.into(), ..source.clone() };
        let error = bench.fetch(&source, None).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(!error.retryable());
        let message = error.to_string();
        assert!(message.contains(&format!("{repository}@{revision}")) && message.contains(fix), "{message}");
    }
}

#[tokio::test]
async fn a_file_that_is_listed_but_not_there_is_named() {
    let bench = Bench::new().await;
    *bench.hub.lost.lock().unwrap() = Some("tokenizer/merges.txt".into());
    let error = bench.fetch(&bench.hub.source(), None).await.unwrap_err();
    assert_eq!(error.reason(), "ModelNotFound");
    assert!(error.to_string().contains("tokenizer/merges.txt of repository acme/tiny@main"), "{error}");
}

#[tokio::test]
async fn a_hub_that_is_down_is_unreachable() {
    let cache = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let source = HuggingFaceSource {
        repository: "acme/tiny".into(),
        revision: "main".into(),
        variant: None,
        endpoint: Some(endpoint.clone()),
        token_secret_ref: None,
    };
    let error = fetch(&source, None, cache.path(), &Progress::new("tiny")).await.unwrap_err();
    assert_eq!(error.reason(), "ModelSourceUnreachable");
    assert!(error.retryable() && error.to_string().contains(&endpoint), "{error}");
}
