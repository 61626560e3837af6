//! `millrace-worker run`: start, work, stop in phases.
//!
//! Start: the faces first, then queue, bucket and model side by side, each tried until it works; a worker that cannot
//! start stays up, unready, and says why. Stop: no more receives; running jobs get the grace period; what is left goes
//! back to the queue at once; the last deletes go out; exit. A second signal ends the grace period.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_api::{CallbackSpec, DRAIN_LAPSES, is_fifo};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::Announcer;
use crate::aws::{Clients, LONG_POLL};
use crate::batch::{Batcher, Limits};
use crate::config::Config;
use crate::deliver::Store;
use crate::drain::{Drains, resume_when_lapsed};
use crate::handler::{Handler, RequestOf};
use crate::http::{self, Faces};
use crate::inputs::Inputs;
use crate::lanes::Lanes;
use crate::lease::Leases;
use crate::message::Message;
use crate::metrics::{Metrics, Startup};
use crate::model::source::{Progress, fetch};
use crate::model::thread::EngineThread;
use crate::model::{LoadError, Loading};
use crate::pipeline::Pipeline;
use crate::queue::Queue;
use crate::receive::{Pulse, Receiver};
use crate::settle::Settler;
use crate::slots::{Outlook, Slots};
use crate::state::{Part, State};
use crate::stop::Stop;
use crate::store::FAREWELL;
use crate::suspect::Notes;
use crate::trouble::Troubles;

/// Where models are kept when the config is not told otherwise by `MILLRACE_CACHE_DIR`; the operator mounts it.
const CACHE: &str = "/var/cache/millrace";
/// Longest that given-up jobs have to end after the grace period.
const LAST_MOMENTS: Duration = Duration::from_secs(10);
/// Jobs beyond the slots whose results may wait for S3.
const SPARE_DELIVERIES: usize = 8;
/// Jobs beyond the slots that may wait for SQS to take their verdict.
const SPARE_SETTLEMENTS: usize = 256;

/// Runs the consumer until it is told to stop.
pub async fn run<H: Handler>(handler: H, config: Config, stop: Stop) -> anyhow::Result<()> {
    let handler = Arc::new(handler);
    let began = Instant::now();
    let Stop { stop, abort } = stop;
    let capacity = config.worker.model.slots();
    let state = Arc::new(State::new(worker_name(), capacity as u32));
    let metrics = Arc::new(Metrics::new(&config.worker));
    let pulse = Arc::new(Pulse::default());
    let listener = http::bind(config.worker.http.port)
        .await
        .map_err(|e| anyhow::anyhow!("http.port: cannot listen on {}: {e}", config.worker.http.port))?;
    let drains = Drains::new(Arc::clone(&state), config.drain_key.clone(), config.path.clone(), DRAIN_LAPSES);
    let faces = Faces {
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
        pulse: Arc::clone(&pulse),
        drains: Arc::new(drains),
    };
    tokio::spawn(http::serve(listener, faces));
    tokio::spawn(resume_when_lapsed(Arc::clone(&state)));

    let clients = Clients::new(&config.worker, &config.queue_region, config.queue_endpoint.as_deref()).await;
    let queue = Queue::new(clients.sqs.clone(), &config.worker.queue, Arc::clone(&metrics));
    let bucket = config.bucket(clients.s3.clone(), &state, &metrics);
    let secret = std::env::var(CallbackSpec::VARIABLE).ok();
    let announcer =
        Announcer::new(clients.sqs.clone(), &config.worker, secret, Arc::clone(&metrics), Arc::clone(&state))?;
    metrics.startup(Startup::Configure, began.elapsed());
    let reach = async {
        let began = Instant::now();
        let reached = tokio::join!(
            queue.clone().watch_redrive(Arc::clone(&state), stop.clone()),
            bucket.wait(state.worker(), &stop),
        );
        metrics.startup(Startup::Reach, began.elapsed());
        reached
    };
    let ((redrive, written), engine) = tokio::join!(reach, load(&handler, &config, &state, &metrics, &stop));
    let (Some(redrive), Ok(()), Some(engine)) = (redrive, written, engine) else {
        tracing::info!("stopped before it was ready");
        return Ok(());
    };
    let beats = CancellationToken::new();
    let visibility = Duration::from_secs(u64::try_from(config.worker.queue.visibility_timeout_seconds).unwrap_or(120));
    let url = config.worker.queue.url.clone();
    let ordered = is_fifo(&url);
    let leases =
        Leases::new(clients.sqs.clone(), url.clone(), visibility, ordered, Arc::clone(&state), Arc::clone(&metrics));
    let heart = tokio::spawn(Arc::clone(&leases).run(beats.clone()));
    let max_wait = u64::try_from(config.worker.model.batch.max_wait_milliseconds).unwrap_or(0);
    let limits = Limits { max_size: capacity, max_wait: Duration::from_millis(max_wait) };
    let outlook = Outlook::default();
    let slots = Slots::new(capacity, outlook.clone());
    let grace = Duration::from_secs(config.worker.shutdown.grace_period_seconds);
    let pipeline = Arc::new(Pipeline {
        handler,
        queue,
        redrive,
        leases,
        lanes: ordered.then(Lanes::default),
        slots: slots.clone(),
        inputs: Inputs::new(clients.s3, bucket.clone(), Arc::clone(&metrics)),
        revision: engine.revision().map(str::to_owned),
        batcher: Batcher::start(engine, limits, outlook),
        notes: Notes::new(bucket.clone(), state.worker(), visibility),
        store: Store::new(bucket, config.key_template.clone(), &config.worker.consumer.to_string()),
        announcer,
        settler: Settler::start(&clients.sqs, &url, &state, &metrics),
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
        deliveries: Semaphore::new(capacity + SPARE_DELIVERIES),
        present: Semaphore::new(capacity * 2 + SPARE_SETTLEMENTS),
        abort: abort.clone(),
        config,
    });
    let receiver = Receiver {
        sqs: clients.sqs_poll,
        queue_url: url,
        ordered,
        visibility,
        // one that is under way when the worker is told to stop is not cut
        poll: LONG_POLL.min(grace + Duration::from_secs(5)),
        slots,
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
        pulse,
    };
    state.set_loaded();
    metrics.startup(Startup::Total, began.elapsed());
    tracing::info!(worker = state.worker(), capacity, startup = metrics.startup_in_words(), "ready");
    let uploads = pipeline.store.uploads().clone();
    work(pipeline, receiver, &state, stop, grace).await;
    // what is given up is removed from S3
    uploads.close();
    let _ = tokio::time::timeout(FAREWELL, uploads.wait()).await;
    // nothing is held any more, so nobody misses a heartbeat
    beats.cancel();
    heart.await?;
    tracing::info!("stopped");
    Ok(())
}

/// Receives until `stop`, then sees every job to its end.
async fn work<H: Handler>(
    pipeline: Arc<Pipeline<H>>,
    receiver: Receiver,
    state: &State,
    stop: CancellationToken,
    grace: Duration,
) {
    let jobs = TaskTracker::new();
    let abort = pipeline.abort.clone();
    // it may end right here or be awaited once more below, so it must bear both
    let receiving = futures::future::maybe_done(receiver.run(
        stop.clone(),
        |message, slot| drop(jobs.spawn(Arc::clone(&pipeline).see_through(message, slot))),
        async |late| give_back(&pipeline, late).await,
    ));
    tokio::pin!(receiving);
    tokio::select! {
        () = &mut receiving => {}
        () = stop.cancelled() => {}
    }
    state.set_stopping();
    tracing::info!(
        held = jobs.len(),
        grace_seconds = grace.as_secs(),
        "stopping: no more receives, finishing what is held"
    );
    jobs.close();
    let finish = async {
        // a poll under way may still bring messages; its connection is not cut, or they would stay hidden
        (&mut receiving).await;
        // only now: a poll that ends in the very moment of the signal still makes jobs, and whether there are any to wait
        // for is settled when the wait is made
        jobs.wait().await;
    };
    tokio::pin!(finish);
    tokio::select! {
        () = &mut finish => return,
        () = tokio::time::sleep(grace) => tracing::warn!(held = jobs.len(), "the grace period is over: giving back what is left"),
        () = abort.cancelled() => tracing::warn!(held = jobs.len(), "hurried: giving back what is left"),
    }
    abort.cancel();
    // the poll too: it may catch what the jobs give back, and must hand it on
    if tokio::time::timeout(LAST_MOMENTS, finish).await.is_err() && !jobs.is_empty() {
        tracing::error!(
            held = jobs.len(),
            "the model did not stop in time; these jobs come back when their leases end"
        );
    }
}

/// Messages that a last poll brought: visible again at once.
async fn give_back<H: Handler>(pipeline: &Pipeline<H>, late: Vec<Message>) {
    if !late.is_empty() {
        tracing::info!(messages = late.len(), "received while stopping: given back");
    }
    futures::future::join_all(late.into_iter().map(|message| pipeline.turn_away(message))).await;
}

/// Fetches and loads the model until that works; none if it is time to stop first.
async fn load<H: Handler>(
    handler: &Arc<H>,
    config: &Config,
    state: &Arc<State>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Option<EngineThread<RequestOf<H>>> {
    let mut pause = Duration::from_secs(5).min(handler.longest_pause());
    loop {
        let troubles = Troubles::default();
        let attempt = async {
            let engine = load_once(handler, config, metrics, &troubles).await;
            match engine {
                Ok(engine) => Some(engine),
                Err(error) => {
                    if state.set_problem(Part::Model, error.reason, &error.message) {
                        tracing::error!(reason = error.reason, "{}", error.message);
                    }
                    tokio::time::sleep(pause).await;
                    None
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return None,
            engine = attempt => if let Some(engine) = engine {
                state.clear_problem(Part::Model);
                tokio::spawn(troubles.show(Arc::clone(state), Part::Model));
                return Some(engine);
            }
        }
        pause = (pause * 2).min(handler.longest_pause());
    }
}

/// Fetches and loads the model once.
pub async fn load_once<H: Handler>(
    handler: &Arc<H>,
    config: &Config,
    metrics: &Arc<Metrics>,
    troubles: &Troubles,
) -> Result<EngineThread<RequestOf<H>>, LoadError> {
    let spec = &config.worker.model;
    handler.check_defaults(&spec.parameters).map_err(|error| LoadError::parameters(&error))?;
    let Some(source) = &spec.source else { return start(handler, config, metrics, troubles, &PathBuf::new()).await };
    let cache = std::env::var_os("MILLRACE_CACHE_DIR").map_or_else(|| PathBuf::from(CACHE), PathBuf::from);
    let began = Instant::now();
    let (fetched, hold) = fetch(source, &cache, Some(&config.queue_region), &Progress::new(source.name()))
        .await
        .map_err(|e| LoadError { reason: e.reason(), message: e.to_string() })?;
    metrics.startup(Startup::Fetch, began.elapsed());
    let engine = start(handler, config, metrics, troubles, &fetched.dir).await?;
    tokio::spawn(hold.release());
    Ok(engine.with_revision(fetched.revision))
}

/// Loads the model that lies in `dir`.
async fn start<H: Handler>(
    handler: &Arc<H>,
    config: &Config,
    metrics: &Arc<Metrics>,
    troubles: &Troubles,
    dir: &Path,
) -> Result<EngineThread<RequestOf<H>>, LoadError> {
    let how = Loading { troubles: troubles.clone(), ..Loading::new(&config.worker.model, dir) };
    let handler = Arc::clone(handler);
    EngineThread::start(move || handler.load(&how), Arc::clone(metrics)).await
}

/// The pod's name, else the host's.
pub fn worker_name() -> String {
    let named = ["POD_NAME", "HOSTNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    named.unwrap_or_else(|| format!("worker-{}", std::process::id()))
}
