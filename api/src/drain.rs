//! How the operator tells a worker to drain: `POST /drain`, or `DELETE /drain` to take that back, signed with Ed25519.

use std::time::Duration;

/// The request's path.
pub const DRAIN_PATH: &str = "/drain";
/// The header with the time of the request, in milliseconds since 1970.
pub const DRAIN_TIME_HEADER: &str = "millrace-time";
/// The header with the signature of [`drain_text`], in base64.
pub const DRAIN_SIGNATURE_HEADER: &str = "millrace-signature";
/// A drain that is not renewed for so long has lapsed: the operator may be gone.
pub const DRAIN_LAPSES: Duration = Duration::from_mins(1);
/// A request whose time is further from the worker's clock than this is refused. Within it, a request older than the
/// last one taken is refused too, so that nobody can repeat one.
pub const DRAIN_CLOCK_SKEW: Duration = Duration::from_mins(2);

/// What a worker is told about new jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOrder {
    /// Finish what is held and take nothing new.
    Drain,
    /// Take jobs again.
    Resume,
}

impl DrainOrder {
    /// The request's method.
    pub fn method(self) -> &'static str {
        match self {
            Self::Drain => "POST",
            Self::Resume => "DELETE",
        }
    }
}

/// What is signed: the request's method, the worker that it is for (its pod's name), and the request's time.
pub fn drain_text(method: &str, worker: &str, milliseconds: i64) -> String {
    format!("millrace-drain-1\n{method}\n{worker}\n{milliseconds}\n")
}
