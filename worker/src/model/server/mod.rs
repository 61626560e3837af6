//! Task Http: a model server beside the worker computes, and this asks it: one POST for each input of a job.
//!
//! A job goes through `ask` (what is sent), `gate` (how many go at a time), the call, and `answer` (what that means). What
//! is no fault of the job (too many requests, a server that restarts, a wrong path) is waited out here, with its message
//! held, so that no receive is burnt for it.

mod answer;
mod ask;
mod gate;
mod sse;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use millrace_api::{RequestBody, ServerSpec};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::ask::Asked;

use self::answer::{Meaning, complaint, file, meaning, product, retry_after};
use self::ask::{Body, FILE};
use self::gate::Gate;
use super::concurrent::Concurrent;
use super::{About, Engine, Input, InvalidInput, Item, LoadError, Loading, Product, RunError};
use crate::handler::Handler;
use crate::trouble::Troubles;

/// For servers that keep logs, and for those that would compute nothing twice.
const JOB_ID: HeaderName = HeaderName::from_static("millrace-job-id");
/// Shorter than what servers keep a connection for that is not used (uvicorn: 5 s), so that none is closed just as it is
/// used again.
const IDLE: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a server that is not up.
const LOOKS: Duration = Duration::from_secs(1);
/// How often the server may end while it has a request alone, before the request is to blame.
const MOST_ENDS: u32 = 3;
/// Most bytes of an answer that says no.
const LONGEST_COMPLAINT: usize = 64 << 10;

/// The handler: asks the server that stands beside the worker, as `model.server` describes it.
#[derive(Debug)]
pub struct Beside(pub Option<ServerSpec>);

impl Beside {
    fn sends_file(&self) -> bool {
        self.0.as_ref().is_some_and(|server| server.request.body == RequestBody::File)
    }
}

impl Handler for Beside {
    type Engine = Server;

    /// They are the server's, which alone knows them.
    fn check_defaults(&self, _: &Map<String, Value>) -> Result<(), InvalidInput> {
        Ok(())
    }

    fn object_fields(&self, _: &About) -> &'static [&'static str] {
        if self.sends_file() { &[FILE] } else { &[] }
    }

    fn content_field(&self, _: &About) -> Option<&'static str> {
        self.sends_file().then_some(FILE)
    }

    fn decode(&self, input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Asked, InvalidInput> {
        Ok(Asked::new(input, defaults, about))
    }

    fn load(&self, how: &Loading) -> Result<Server, LoadError> {
        Server::connect(self.0.as_ref(), &how.troubles)
    }

    /// A server is asked whether it is up: that costs nothing.
    fn longest_pause(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// The engine: a server that answered its health path.
#[derive(Debug)]
pub struct Server {
    asker: Arc<Asker>,
    runtime: Handle,
}

impl Server {
    /// Looks whether the server is up.
    pub fn connect(spec: Option<&ServerSpec>, troubles: &Troubles) -> Result<Self, LoadError> {
        let missing = || LoadError {
            reason: "ServerMissing",
            message: "model.server: is missing, and task Http asks the server that it describes".into(),
        };
        let asker = Asker::new(spec.ok_or_else(missing)?, troubles)?;
        let runtime = Handle::current();
        runtime.block_on(asker.look()).map_err(|heard| LoadError {
            reason: "ServerStarting",
            message: format!(
                "the server is not up yet: {heard}; it is asked again each second (model.server.healthPath)"
            ),
        })?;
        Ok(Self { asker: Arc::new(asker), runtime })
    }
}

impl Engine for Server {
    type Request = Asked;

    /// Its health path is all that can be asked without a job.
    fn warm_up(&mut self) -> Result<(), RunError> {
        Ok(())
    }

    fn run(&mut self, batch: &[Item<Asked>]) -> Vec<Result<Product, RunError>> {
        self.runtime.block_on(join_all(batch.iter().map(|item| self.asker.run(item.clone()))))
    }

    fn concurrent(&self) -> Option<Arc<dyn Concurrent<Asked>>> {
        Some(Arc::clone(&self.asker) as Arc<dyn Concurrent<Asked>>)
    }
}

/// Asks the server.
#[derive(Debug)]
struct Asker {
    spec: ServerSpec,
    client: Client,
    url: String,
    health: String,
    headers: HeaderMap,
    timeout: Duration,
    most_bytes: usize,
    gate: Gate,
    /// It has answered a request.
    proven: AtomicBool,
    /// When it was last seen to be up again; held by whoever looks.
    seen_up: tokio::sync::Mutex<Option<Instant>>,
    troubles: Troubles,
}

/// What one try came to.
#[derive(Debug)]
enum Tried {
    Done(Box<Product>),
    Invalid(InvalidInput),
    Failed(String),
    /// Not now.
    Busy {
        heard: String,
        wait: Option<Duration>,
    },
    /// The server is not asked as it wants to be.
    Misdirected(InvalidInput),
    /// It is not there any more; it had the request then, or had not.
    Gone {
        heard: String,
        had_it: bool,
    },
}

impl Concurrent<Asked> for Asker {
    fn run(&self, item: Item<Asked>) -> BoxFuture<'_, Result<Product, RunError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                // the connection is closed, which is all that HTTP has to say so
                () = item.cancel.cancelled() => Err(RunError::Cancelled),
                result = self.persist(&item) => result,
            }
        })
    }

    fn ends(&self) -> watch::Receiver<Vec<Instant>> {
        self.gate.ends()
    }
}

impl Asker {
    fn new(spec: &ServerSpec, troubles: &Troubles) -> Result<Self, LoadError> {
        // neither a proxy nor a redirect leads to the server that stands beside the worker
        let client = Client::builder()
            .user_agent(concat!("millrace-worker/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE)
            .build();
        let client = client.map_err(|error| wrong(format!("cannot make an HTTP client: {error}")))?;
        let url = |path: &str| format!("http://127.0.0.1:{}{path}", spec.port);
        Ok(Self {
            client,
            url: url(spec.request_path()),
            health: url(&spec.health_path),
            headers: headers(spec)?,
            timeout: Duration::from_secs(u64::try_from(spec.timeout_seconds).unwrap_or(1)),
            most_bytes: usize::try_from(spec.response.max_mebibytes).unwrap_or(1) << 20,
            gate: Gate::new(usize::try_from(spec.concurrency).unwrap_or(1)),
            proven: AtomicBool::new(false),
            seen_up: tokio::sync::Mutex::default(),
            troubles: troubles.clone(),
            spec: spec.clone(),
        })
    }

    /// Whether the server is up; else what was heard.
    async fn look(&self) -> Result<(), String> {
        let path = &self.health;
        let answer = self.client.get(path).headers(self.headers.clone()).timeout(HEALTH_TIMEOUT).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("GET {path} answered {}", answer.status())),
            Err(error) => Err(format!("GET {path}: {}", in_words(&error))),
        }
    }

    /// Asks until there is an answer that counts.
    async fn persist(&self, item: &Item<Asked>) -> Result<Product, RunError> {
        let body = ask::body(&self.spec, &item.request)?;
        let mut ends = 0;
        loop {
            let pass = self.gate.enter(item.is_last).await;
            let alone = pass.alone;
            let tried = self.ask(item, &body).await.unwrap_or_else(|Late| {
                let seconds = self.timeout.as_secs();
                Tried::Failed(format!("no answer within {seconds} s (model.server.timeoutSeconds)"))
            });
            match tried {
                Tried::Done(product) => {
                    pass.answered();
                    self.proven.store(true, Ordering::Relaxed);
                    self.troubles.clear();
                    return Ok(*product);
                }
                Tried::Invalid(error) => {
                    pass.answered();
                    return Err(error.into());
                }
                Tried::Misdirected(error) if self.proven.load(Ordering::Relaxed) => {
                    pass.answered();
                    return Err(error.into());
                }
                Tried::Failed(why) => return Err(RunError::Model(why)),
                Tried::Busy { heard, wait } => {
                    let pause = pass.refused(wait);
                    self.tell(
                        "ServerOverloaded",
                        format!("{heard}; fewer requests are made, the next in {:.1} s", pause.as_secs_f64()),
                    );
                }
                Tried::Misdirected(error) => {
                    pass.refused(None);
                    self.tell("ServerRefuses", format!("POST {}: {error}; correct model.server.path, headers or preset: jobs are held until it answers one", self.url));
                }
                Tried::Gone { heard, had_it } => {
                    ends += u32::from(had_it && alone);
                    if ends >= MOST_ENDS {
                        return Err(RunError::Model(format!(
                            "the server ended {ends} times while it had this request alone: {heard}"
                        )));
                    }
                    if had_it {
                        pass.ended();
                    } else {
                        drop(pass);
                    }
                    self.tell(
                        "ServerUnavailable",
                        format!("the server is gone: {heard}; jobs are held until it is up again"),
                    );
                    self.until_up().await;
                }
            }
        }
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.troubles.tell(LoadError { reason, message });
    }

    async fn until_up(&self) {
        let gone = Instant::now();
        let mut seen_up = self.seen_up.lock().await;
        // one looks for all
        if seen_up.is_some_and(|at| at > gone) {
            return;
        }
        loop {
            // also before the first look: one that closes every connection is not asked in a tight loop
            tokio::time::sleep(LOOKS).await;
            match self.look().await {
                Ok(()) => {
                    *seen_up = Some(Instant::now());
                    return self.troubles.clear();
                }
                Err(heard) => self.tell(
                    "ServerUnavailable",
                    format!("the server is gone: {heard}; jobs are held until it is up again"),
                ),
            }
        }
    }

    /// One try.
    async fn ask(&self, item: &Item<Asked>, body: &Body) -> Result<Tried, Late> {
        let asked = &item.request;
        let mut patience = Patience(self.timeout);
        let mut headers = self.headers.clone();
        if let Ok(job_id) = HeaderValue::from_str(&asked.job_id) {
            headers.insert(JOB_ID, job_id);
        }
        let request = self.client.post(&self.url).header(CONTENT_TYPE, &body.content_type).headers(headers);
        let answer = match patience.of(request.body(body.bytes.clone()).send()).await? {
            Ok(answer) => answer,
            Err(error) if error.is_builder() => {
                return Ok(Tried::Failed(format!("the request cannot be made: {}", in_words(&error))));
            }
            Err(error) => return Ok(Tried::Gone { heard: in_words(&error), had_it: !error.is_connect() }),
        };
        match meaning(answer.status()) {
            Meaning::Done => self.take(answer, item, patience).await,
            no => patience.of(refusal(no, answer)).await,
        }
    }

    /// Reads an answer, and makes its result.
    async fn take(&self, mut answer: Response, item: &Item<Asked>, mut patience: Patience) -> Result<Tried, Late> {
        let content_type = header(&answer, &CONTENT_TYPE).unwrap_or_default();
        let Some(name) = file(&self.spec.response, &content_type) else {
            return Ok(match patience.of(collect(answer, self.most_bytes)).await? {
                Err(error) => Tried::Gone { heard: in_words(&error), had_it: true },
                Ok(None) => self.too_large(),
                Ok(Some(body)) => match product(&self.spec.response, &content_type, &body) {
                    Ok(product) => Tried::Done(Box::new(product)),
                    Err(why) => Tried::Failed(why),
                },
            });
        };
        // what takes long to upload is no fault of the server's
        let mut stream = item.stream(name);
        loop {
            match patience.of(answer.chunk()).await? {
                Err(error) => return Ok(Tried::Gone { heard: in_words(&error), had_it: true }),
                Ok(None) => break,
                Ok(Some(chunk)) if stream.len() + chunk.len() as u64 > self.most_bytes as u64 => {
                    return Ok(self.too_large());
                }
                Ok(Some(chunk)) => {
                    if let Err(error) = stream.push(&chunk).await {
                        return Ok(Tried::Failed(error.to_string()));
                    }
                }
            }
        }
        Ok(Tried::Done(Box::new(Product { outputs: vec![stream.finish()], ..Product::default() })))
    }

    fn too_large(&self) -> Tried {
        let most = self.spec.response.max_mebibytes;
        Tried::Failed(format!("the answer has more than {most} MiB (model.server.response.maxMebibytes)"))
    }
}

/// The time that is left to a server for its answer.
#[derive(Debug)]
struct Patience(Duration);

/// It ran out.
#[derive(Debug)]
struct Late;

impl Patience {
    /// Waits for the server.
    async fn of<F: Future>(&mut self, answer: F) -> Result<F::Output, Late> {
        let began = Instant::now();
        let answer = tokio::time::timeout(self.0, answer).await.map_err(|_| Late)?;
        self.0 = self.0.saturating_sub(began.elapsed());
        Ok(answer)
    }
}

/// An answer that says no.
async fn refusal(meaning: Meaning, answer: Response) -> Tried {
    let status = answer.status();
    let wait = retry_after(answer.headers().get(RETRY_AFTER), Timestamp::now());
    let to = header(&answer, &LOCATION).map(|to| format!(" (to {to}: redirects are not followed)")).unwrap_or_default();
    // what cannot be read of it is not missed
    let body = collect(answer, LONGEST_COMPLAINT).await.ok().flatten().unwrap_or_default();
    let mut error = complaint(status, &body);
    error.message.push_str(&to);
    match meaning {
        Meaning::Busy => Tried::Busy { heard: error.message, wait },
        Meaning::Invalid => Tried::Invalid(error),
        Meaning::Misdirected => Tried::Misdirected(error),
        Meaning::Done | Meaning::Failed => Tried::Failed(error.message),
    }
}

/// An answer's body; none if it is larger than that.
async fn collect(mut answer: Response, most: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let told = answer.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
    if told > most {
        return Ok(None);
    }
    let mut body = BytesMut::with_capacity(told);
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

fn header(answer: &Response, name: &HeaderName) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

/// An error with its causes; the outermost only repeats the URL.
fn in_words(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

fn wrong(message: String) -> LoadError {
    LoadError { reason: "InvalidParameters", message }
}

/// The headers of every request, with the variables that they name.
fn headers(spec: &ServerSpec) -> Result<HeaderMap, LoadError> {
    let mut headers = HeaderMap::new();
    for (index, header) in spec.headers.iter().enumerate() {
        let field = |name: &str, why: String| wrong(format!("model.server.headers[{index}].{name}: {why}"));
        let name: HeaderName = header.name.parse().map_err(|error| field("name", format!("{error}")))?;
        let value = expand(&header.value, |name| std::env::var(name).ok()).map_err(|why| field("value", why))?;
        let mut value = HeaderValue::from_str(&value).map_err(|error| field("value", error.to_string()))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Puts variables in for `$(NAME)`.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut parts = text.split("$(");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(')').ok_or("$( has no )")?;
        let value = variable(name)
            .ok_or_else(|| format!("$({name}): the worker has no such variable; set it in worker.env"))?;
        all.push_str(&value);
        all.push_str(rest);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_takes_its_secret_from_the_environment() {
        let variable = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        assert_eq!(expand("Bearer $(TOKEN)!", variable).unwrap(), "Bearer s3cret!");
        assert_eq!(expand("plain $ ) text", variable).unwrap(), "plain $ ) text");
        assert!(expand("$(OTHER)", variable).unwrap_err().contains("worker.env"));
        assert!(expand("$(TOKEN", variable).is_err());
    }
}
