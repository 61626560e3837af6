//! How workers go: none that is at work is deleted, by a lower count or with its node.
//!
//! [`plan()`] is pure. It replays the order in which a ReplicaSet deletes pods ([`order`]) and lowers the count only by
//! the leading ones that hold nothing. [`candidate`] says what is known of each pod, [`carry`] does what the plan says
//! (requests to drain, annotations of pods, deletion of pods whose node leaves), [`node`] knows which nodes leave, and
//! [`key`] holds the key that requests are signed with.

mod candidate;
mod carry;
mod key;
mod marks;
mod node;
mod order;
mod plan;

pub(crate) use candidate::{Inputs, Kept};
pub(crate) use carry::{Hands, carry_out};
pub(crate) use key::{Signer, load};
#[cfg(test)]
pub(crate) use key::{drain_key, verifies};
pub(crate) use marks::trim_annotations;
pub(crate) use node::{fate, is_left, matters, trim_node};
pub(crate) use plan::{Plan, plan};
