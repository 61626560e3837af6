//! The controller: what wakes a pass, the pass as its six steps, and what follows an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use millrace_api::{QueueConsumer, QueueConsumerStatus, condition};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::apply::{ApplyError, apply, standing};
use crate::build::{Defaults, build};
use crate::error::Error;
use crate::memory::{Memories, Memory};
use crate::metrics::Metrics;
use crate::observe::{Observed, Sources, held, observe};
use crate::queue::{QueueError, Queues, Read, Trigger};
use crate::retire::{Hands, Inputs, carry_out, plan};
use crate::roster::consumer_of;
use crate::scale::budget::{Claim, Ledger};
use crate::scale::{decide, replay};
use crate::status::{self, News, Outcome};
use crate::validate::validate;
use crate::workers::{Watched, Worker, WorkerClient};
use crate::world::{Scope, Watches, World};
use crate::{events, events::Recorder, http::Readiness};

/// Passes at the same time; one QueueConsumer never has two.
const CONCURRENCY: usize = 16;
/// A pass without any news, in case a watch missed some.
pub(crate) const RESYNC: Duration = Duration::from_mins(5);
/// The next look at workers that are at work or on their way.
pub(crate) const WORKING: Duration = Duration::from_secs(5);
/// The next look at workers that are idle.
const RESTING: Duration = Duration::from_secs(30);
/// A status that tells nothing new but counts is written no more often than this.
const COUNTS: Duration = Duration::from_secs(30);
/// A look that waits for an end comes so much later, so that it has ended.
pub(crate) const AFTER: Duration = Duration::from_millis(50);
/// How long a status stands for a queue that was not read since the operator started.
const FIRST_READING: Duration = Duration::from_secs(30);
/// The next decision after the count moved under this one.
const MOVED: Duration = Duration::from_millis(500);

/// What all passes share.
pub(crate) struct Context<R> {
    pub(crate) client: Client,
    pub(crate) defaults: Defaults,
    pub(crate) queues: Queues<R>,
    pub(crate) workers: WorkerClient,
    pub(crate) watched: Watched,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memories: Memories,
    pub(crate) ledger: Ledger,
}

impl<R: Read> Context<R> {
    /// A QueueConsumer is gone: nothing of it stays.
    fn forget(&self, key: &ObjectRef<QueueConsumer>) {
        self.queues.forget(key);
        self.memories.forget(key);
        self.ledger.forget(key);
        self.watched.forget(key);
        self.metrics.forget(key);
    }
}

/// What the passes of one scope share.
struct Scoped<R> {
    context: Arc<Context<R>>,
    world: World,
    trigger: Trigger,
    turns: Turns,
}

/// Who may pass now: first come, first served. kube-runtime's own limit takes those that wait in the order of a hash table,
/// and with more of them than can be served some would never be.
struct Turns {
    free: Semaphore,
    stop: CancellationToken,
}

impl Turns {
    fn new(stop: CancellationToken) -> Self {
        Self { free: Semaphore::new(CONCURRENCY), stop }
    }

    /// Runs `pass` in its turn; nothing comes of it if it is time to stop before that.
    async fn take<T>(&self, pass: impl Future<Output = T>) -> Option<T> {
        let turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            turn = self.free.acquire() => turn.ok(),
        };
        let _turn = turn?;
        Some(pass.await)
    }
}

/// Works on the QueueConsumers of a scope until `stop`.
pub(crate) async fn run<R: Read>(
    context: Arc<Context<R>>,
    scope: Scope,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) {
    let forgetful = Arc::clone(&context);
    let within_scope = scope.clone();
    let (world, watches) = World::watch(&context.client, &scope, move |consumers| {
        for key in forgetful.memories.keys() {
            let here = matches!(&within_scope, Scope::Namespace(name) if key.namespace.as_ref() != Some(name));
            if !here && consumers.get(&key).is_none() {
                forgetful.forget(&key);
            }
        }
    });
    let Watches { consumers, deployments, pods, config_maps, service_accounts, budgets, nodes } = watches;
    let (trigger, triggered) = mpsc::unbounded_channel();
    let triggered =
        futures::stream::unfold(triggered, async |mut triggered| Some((triggered.recv().await?, triggered)));
    let turns = Turns::new(stop.clone());
    let scoped = Arc::new(Scoped { context, world: world.clone(), trigger, turns });
    let listed = Arc::clone(&scoped);
    let on_nodes = world.pods.clone();
    tokio::spawn(async move {
        listed.world.listed().await;
        let consumers = listed.world.consumers.state();
        let held = consumers.iter().filter_map(|consumer| {
            Some((ObjectRef::from(&**consumer), Claim::held(consumer, held(&listed.world, consumer))?))
        });
        listed.context.ledger.note(held, &listed.trigger);
        readiness.listed();
    });
    Controller::for_stream(consumers, world.consumers)
        .owns_stream(deployments)
        .owns_stream(config_maps)
        .owns_stream(service_accounts)
        .owns_stream(budgets)
        .watches_stream(pods, |pod| consumer_of(&pod))
        .watches_stream(nodes, move |node| on_nodes.consumers_on(&node))
        .reconcile_on(triggered)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, error_policy, scoped)
        .for_each(async |result| report(result))
        .await;
}

fn report(result: Result<(ObjectRef<QueueConsumer>, Action), controller::Error<Error, watcher::Error>>) {
    match result {
        // The pass itself has logged its error, and children of a consumer that is gone wake nobody.
        Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
        Err(error) => tracing::warn!(%error, "the controller reports"),
    }
}

async fn reconcile<R: Read>(consumer: Arc<QueueConsumer>, scoped: Arc<Scoped<R>>) -> Result<Action, Error> {
    let key = ObjectRef::from(&*consumer);
    drop(consumer);
    // What waits is small: there may be thousands.
    let pass = scoped.turns.take(async { Box::pin(reconcile_now(&key, &scoped)).await });
    pass.await.unwrap_or_else(|| Ok(Action::await_change()))
}

/// The pass of a QueueConsumer as it is by now.
async fn reconcile_now<R: Read>(key: &ObjectRef<QueueConsumer>, scoped: &Scoped<R>) -> Result<Action, Error> {
    let context = &scoped.context;
    let Some(consumer) = scoped.world.consumers.get(key) else {
        context.forget(key);
        return Ok(Action::await_change());
    };
    let started = Instant::now();
    let span = tracing::info_span!("reconcile", namespace = key.namespace, consumer = key.name);
    let result = async {
        // With foreground deletion the object stays until its children are gone: they must not be made again.
        if consumer.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        // Before everything was listed a child that is missing may just not have been seen.
        if timeout(WORKING, scoped.world.listed()).await.is_err() {
            return Ok(Action::requeue(WORKING));
        }
        let memory = context.memories.of(key);
        let mut memory = memory.lock().await;
        memory.about(&consumer);
        let result = pass(&consumer, scoped, &mut memory).await;
        match &result {
            Ok(_) => memory.failures = 0,
            Err(error) => {
                memory.failures = memory.failures.saturating_add(1);
                tracing::warn!(reason = error.reason(), failures = memory.failures, %error, "the pass failed");
            }
        }
        result
    };
    let result = result.instrument(span).await;
    if scoped.world.consumers.get(key).is_none() {
        context.forget(key);
    }
    context.metrics.reconciled(result.as_ref().map_or_else(Error::reason, |_| "ok"), started.elapsed());
    result
}

/// One pass: QueueConsumer + world → Observed → Validated → Decision → Resources → Applied → Status.
async fn pass<R: Read>(
    consumer: &Arc<QueueConsumer>,
    scoped: &Scoped<R>,
    memory: &mut Memory,
) -> Result<Action, Error> {
    let Scoped { context, world, trigger, .. } = scoped;
    let (workers, watched) = (&context.workers, &context.watched);
    let sources = Sources { world, queues: &context.queues, workers, watched, trigger };
    let seen = observe(consumer, &sources, memory).await;
    let outcome = Box::pin(act(consumer, context, trigger, &seen, memory)).await;
    let untold = tell(consumer, context, &seen, &outcome, memory).await?;
    let next = next_look(&seen, &outcome).min(untold.unwrap_or(RESYNC));
    match outcome {
        Outcome::Failed(_, error) => Err(error.into()),
        Outcome::Invalid(_) | Outcome::Done(..) => Ok(Action::requeue(next)),
    }
}

/// Validated → Decision → Plan → Built → Applied.
async fn act<R: Read>(
    consumer: &Arc<QueueConsumer>,
    context: &Context<R>,
    trigger: &Trigger,
    seen: &Observed,
    memory: &mut Memory,
) -> Outcome {
    let (workers, watched) = (&context.workers, &context.watched);
    let hands = Hands { client: &context.client, workers, watched, key: ObjectRef::from(&**consumer) };
    let validated = match validate(consumer) {
        Ok(validated) => validated,
        Err(problems) => {
            // No count is decided, and workers that are there are looked after all the same.
            let mut plan = plan(&Inputs::of(None, seen, &mut memory.pods, workers.signs(), Instant::now()));
            carry_out(&hands, &mut plan, seen, memory, Instant::now()).await;
            return Outcome::Invalid(problems);
        }
    };
    let now = Instant::now();
    // What it needs is claimed before it is said what it gets.
    let needed = decide(&validated, seen, now);
    let claim = Claim::of(&validated, seen, &needed);
    let decision = match context.ledger.claim(&hands.key, claim, trigger) {
        Some(grant) => needed.granted(&validated, seen, grant, now),
        None => needed,
    };
    context.metrics.decided(&hands.key, &decision);
    let mut plan = plan(&Inputs::of(Some(&decision), seen, &mut memory.pods, workers.signs(), now));
    let depth = seen.reading.depth.as_ref().ok().copied();
    let news = depth.is_some() && memory.depth != depth;
    memory.depth = depth;
    replay::record(&validated, &decision, &seen.history, now);
    memory.history = decision.history.clone();
    let unreported = memory.unreported.take();
    let applied = match standing(&validated, &plan, seen, memory) {
        Some(applied) => Ok(applied),
        None => match build(&validated, &context.defaults) {
            Ok(built) => Box::pin(apply(&context.client, &validated, built, &decision, &plan, seen, memory)).await,
            Err(error) => {
                let (kind, name) = ("ConfigMap", validated.name());
                Err(ApplyError::Refused { kind, name, message: error.to_string() })
            }
        },
    };
    if let Some(scale) = &memory.unreported {
        // A change that waited for the end of a window says nothing about how fast a reading is acted on.
        let latency = news.then(|| seen.reading.at.elapsed());
        context.metrics.scaled(&hands.key, scale.from, scale.to, latency);
    } else {
        memory.unreported = unreported;
    }
    carry_out(&hands, &mut plan, seen, memory, Instant::now()).await;
    match applied {
        Ok(applied) => Outcome::Done(Box::new(decision), Box::new(applied), Box::new(plan)),
        Err(error) => Outcome::Failed(Box::new(decision), error),
    }
}

/// Status and Events, where there is something new. Says when to come again for what was not told yet.
async fn tell<R: Read>(
    consumer: &QueueConsumer,
    context: &Context<R>,
    seen: &Observed,
    outcome: &Outcome,
    memory: &mut Memory,
) -> Result<Option<Duration>, Error> {
    let before = memory.status.take().or_else(|| consumer.status.clone()).unwrap_or_default();
    let after = status::compute(consumer, seen, outcome, &before, memory.unreported.as_ref(), Timestamp::now());
    context.metrics.replicas(&ObjectRef::from(consumer), after.desired_replicas, after.ready_replicas);
    let untold = match status::news(&before, &after) {
        News::None => Some(None),
        News::Counts => {
            // After a restart as after a write: it would be one for each consumer at once.
            let written = memory.status_written.get_or_insert_with(Instant::now);
            let wait = COUNTS.saturating_sub(written.elapsed());
            (!wait.is_zero()).then_some(Some(wait))
        }
        News::More => first_reading(consumer, seen, outcome, &before, memory).map(Some),
    };
    if let Some(untold) = untold {
        memory.status = Some(before);
        memory.unreported = None;
        return Ok(untold);
    }
    // First, so that what was done is told even where the status cannot be written.
    events::publish(&context.recorder, consumer, outcome, &before, &after).await;
    // What is remembered is empty on failure, so that the next pass compares with what the cluster has and writes again.
    status::write(&context.client, consumer, &after).await?;
    memory.status = Some(after);
    memory.status_written = Some(Instant::now());
    memory.unreported = None;
    Ok(None)
}

/// How long the status still stands although the queue was not read yet: it speaks of this spec and knows whether the
/// queue can be read, and the pass did nothing. Otherwise a restart would write each status twice and tell of each queue
/// that it can be read.
fn first_reading(
    consumer: &QueueConsumer,
    seen: &Observed,
    outcome: &Outcome,
    before: &QueueConsumerStatus,
    memory: &Memory,
) -> Option<Duration> {
    let unread = seen.reading.depth == Err(QueueError::NotReadYet);
    let known = before.conditions.iter().any(|c| c.type_ == condition::QUEUE_ACCESSIBLE && c.status != "Unknown");
    let current = before.observed_generation == consumer.metadata.generation;
    let did = outcome.applied().is_none_or(|applied| applied.created || !applied.rollout.is_empty());
    let wait = FIRST_READING.saturating_sub(seen.reading.at.elapsed());
    let stands = unread && known && current && !did && memory.unreported.is_none() && !wait.is_zero();
    stands.then_some(wait)
}

/// When to look again without being woken.
fn next_look(seen: &Observed, outcome: &Outcome) -> Duration {
    if outcome.applied().is_some_and(|applied| applied.moved) {
        return MOVED;
    }
    let busy = !seen.reading.depth.as_ref().is_ok_and(crate::queue::Depth::is_idle)
        || seen.workers.iter().any(Worker::is_busy);
    let unready = seen.workers.iter().any(|w| w.state().is_none_or(|s| !s.ready));
    let look = match () {
        () if seen.workers.is_empty() => RESYNC,
        () if busy || unready => WORKING,
        () => RESTING,
    };
    let decided = outcome.decision().and_then(|decision| decision.recheck);
    let planned = outcome.plan().and_then(|plan| plan.recheck);
    let rechecks = decided.into_iter().chain(planned).map(|wait| wait + AFTER);
    rechecks.fold(look, Duration::min)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that kube calls")]
fn error_policy<R: Read>(consumer: Arc<QueueConsumer>, error: &Error, scoped: Arc<Scoped<R>>) -> Action {
    let memory = scoped.context.memories.of(&ObjectRef::from(&*consumer));
    let failures = memory.try_lock().map_or(1, |memory| memory.failures);
    Action::requeue(error.requeue(failures))
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
