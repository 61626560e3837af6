//! `millrace-worker check`: what is wrong with queue, bucket and model, without changing anything.

use std::io::Write as _;
use std::sync::Arc;

use crate::aws::Clients;
use crate::config::Config;
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::run::load_once;
use crate::state::State;
use crate::trouble::Troubles;

/// Checks everything and prints a line for each. True if all is well.
pub async fn check<H: Handler>(handler: H, config: Config, write: bool) -> bool {
    let state = Arc::new(State::new("check".into(), 1));
    let metrics = Arc::new(Metrics::new(&config.worker));
    let clients = Clients::new(&config.worker, &config.queue_region, config.queue_endpoint.as_deref()).await;
    let queue = Queue::new(clients.sqs, &config.worker.queue, Arc::clone(&metrics));
    let bucket = config.bucket(clients.s3, &state, &metrics);

    let mut well = true;
    let mut tell = |what: &str, found: Result<String, (&str, String)>| match found {
        Ok(detail) => line(&format!("ok    {what}: {detail}")),
        Err((reason, message)) => {
            well = false;
            line(&format!("WRONG {what}: {reason}: {message}"));
        }
    };
    let redrive = queue.read_redrive().await.map(|redrive| match redrive.dead_letter_url {
        Some(url) => format!("{} receives, then {url}", redrive.max_receive_count),
        None => format!("no redrive policy; a job is given up after {} receives", redrive.max_receive_count),
    });
    tell("queue", redrive.map_err(|e| (e.reason, e.message)));
    let place = format!("s3://{}/{}", bucket.name(), bucket.prefix());
    let read = bucket.check().await.map(|()| format!("{place} can be read and listed"));
    tell("bucket", read.map_err(|e| (e.reason, e.message)));
    if write {
        let written = bucket.check_write("by-hand").await;
        let written = written.map(|()| "an object was put, kept against a second put, and deleted".to_owned());
        tell("bucket", written.map_err(|e| (e.reason, e.message)));
    }
    let task = config.worker.model.task.name();
    let model = load_once(&Arc::new(handler), &config, &metrics, &Troubles::default()).await.map(|engine| {
        let revision = engine.revision().map(|r| format!(", revision {r}")).unwrap_or_default();
        let what = match config.worker.model.server {
            Some(_) => "has a server that answers its health path",
            None => "is loaded and has inferred once",
        };
        format!("{task} {what}{revision}")
    });
    tell("model", model.map_err(|e| (e.reason, e.message)));
    well
}

/// A reader that has seen enough (`| head`) is no error.
fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
