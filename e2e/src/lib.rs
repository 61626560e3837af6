//! The harness of the end-to-end tests: a place of its own for each scenario on the cluster that `e2e/kind/up` brings up,
//! and words for what scenarios do and see there.

mod bucket;
mod cli;
mod consumer;
mod lab;
mod ledger;
mod manifest;
mod model;
mod node;
mod operator;
mod picture;
mod pods;
mod proxy;
mod queue;
mod report;
mod soak;
mod timeline;
mod wait;

pub use bucket::Record;
pub use cli::Told;
pub use consumer::{Consumer, name_of};
pub use lab::{GPUS, IN_CLUSTER, Lab, REGION, scenario};
pub use ledger::Ledger;
pub use manifest::Manifest;
pub use model::{Model, infer};
pub use node::node_of;
pub use operator::Operator;
pub use picture::Picture;
pub use pods::{Deletion, PodWatch};
pub use proxy::{Fault, Proxy, Rule, Target};
pub use queue::{Counts, Letter, Queue, Sent};
pub use soak::{seed, soaking};
pub use timeline::Timeline;
pub use wait::eventually;
