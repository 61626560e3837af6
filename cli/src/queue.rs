//! `queue`: the queue's numbers; emptying it; making one.

use clap::{Args, Subcommand};
use millrace_client::{QueuePlan, QueueStats, connect_sqs};
use serde::Serialize;

use crate::ask::sure;
use crate::common::Common;
use crate::exit::Ended;
use crate::show::{Tabular, show};

/// Tell what the queue holds; empty it, or make one
///
/// The numbers are SQS's own, which are approximate. SQS does not tell how old the oldest message is; of a consumer in a
/// cluster its workers do.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Delete every message of the queue, for good
    Purge {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Make a queue with its dead-letter queue: kept for 14 days, polls of 20 s
    Create {
        /// The queue's name; one that ends in .fifo makes FIFO queues
        name: String,
        /// AWS region; the environment's own by default
        #[arg(long)]
        region: Option<String>,
        /// Receives after which a message goes to the dead-letter queue
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        max_receive_count: u32,
        /// The lease of consumers that say nothing else, in seconds
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(0..=43200))]
        visibility_timeout: u32,
    },
}

/// Runs the command.
pub async fn run(common: &Common, args: QueueArgs) -> anyhow::Result<Ended> {
    match args.action {
        None => {
            let target = common.target().await?;
            let queue = target.client.queue_stats().await?;
            show(common.format, &Depth { queue, oldest_seconds: target.oldest_seconds })?;
        }
        Some(Action::Purge { yes }) => {
            let client = common.target().await?.client;
            let url = &client.consumer().queue.url;
            let visible = client.queue_stats().await?.visible;
            sure(yes, &format!("Delete every message of {url} (about {visible}), for good?"))?;
            client.purge().await?;
            eprintln!("{url} is being emptied; SQS takes up to a minute");
        }
        Some(Action::Create { name, region, max_receive_count, visibility_timeout }) => {
            let sqs = connect_sqs(region, common.endpoint.as_deref()).await;
            let plan = QueuePlan { name, max_receive_count, visibility_timeout };
            let (url, dead_letter_url) = plan.create(&sqs).await?;
            show(common.format, &Made { url, dead_letter_url })?;
        }
    }
    Ok(Ended::Well)
}

#[derive(Debug, Serialize)]
struct Depth {
    #[serde(flatten)]
    queue: QueueStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<i64>,
}

impl Tabular for Depth {
    fn heads(&self) -> Vec<&'static str> {
        vec!["VISIBLE", "IN-FLIGHT", "DELAYED", "OLDEST", "DEAD-LETTERS", "QUEUE"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let queue = &self.queue;
        let oldest = self.oldest_seconds.map_or_else(|| "unknown".into(), |seconds| format!("{seconds}s"));
        let dead = match (&queue.dead_letter_url, queue.dead_letters) {
            (None, _) => "no such queue".into(),
            (_, None) => "unknown".into(),
            (_, Some(count)) => count.to_string(),
        };
        let counts = [queue.visible, queue.in_flight, queue.delayed].map(|count| count.to_string());
        vec![counts.into_iter().chain([oldest, dead, queue.url.clone()]).collect()]
    }
}

#[derive(Debug, Serialize)]
struct Made {
    url: String,
    dead_letter_url: String,
}

impl Tabular for Made {
    fn heads(&self) -> Vec<&'static str> {
        vec!["QUEUE", "DEAD-LETTER QUEUE"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![self.url.clone(), self.dead_letter_url.clone()]]
    }
}
