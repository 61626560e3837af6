//! The operator's side of a scale-down: it has a worker drain before it takes it away, so that no job is cut short.
//!
//! Whoever could tell workers to drain could stop all work, so each request is signed, for one worker and one moment.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
pub use millrace_api::DrainOrder as Order;
use millrace_api::{DRAIN_CLOCK_SKEW, DRAIN_SIGNATURE_HEADER, DRAIN_TIME_HEADER, drain_text};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{self, ConfigError};
use crate::state::State;
use crate::time::rfc3339;

/// The config file is not read again sooner: anybody can send a wrong signature.
const REREAD: Duration = Duration::from_secs(5);

/// Whose signature counts: an Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainKey([u8; ED25519_PUBLIC_KEY_LEN]);

/// Why a key is none.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Of another length.
    #[error("{0} bytes, and an Ed25519 key has {ED25519_PUBLIC_KEY_LEN}")]
    Length(usize),
}

impl FromStr for DrainKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| KeyError::Length(length))
    }
}

impl DrainKey {
    fn signed(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(text.as_bytes(), signature).is_ok()
    }
}

/// Why an order is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody may.
    #[error("drain.publicKey is not configured")]
    NoKey,
    /// A header is missing or is not what it should be.
    #[error("{header}: must be {wanted}")]
    Header {
        /// Its name.
        header: &'static str,
        /// What it holds.
        wanted: &'static str,
    },
    /// An old request that somebody has kept, or a clock that is wrong.
    #[error("the request is of {told} and this worker's clock says {now}: they may differ by two minutes")]
    Clock {
        /// Its time.
        told: String,
        /// The worker's.
        now: String,
    },
    /// Another one has overtaken it, or somebody repeats it.
    #[error("the request is of {told}, and the last one that was obeyed, of {last}, is as new or newer")]
    Old {
        /// Its time.
        told: String,
        /// The other one's.
        last: String,
    },
    /// Not the operator, or not meant for this worker.
    #[error(
        "{DRAIN_SIGNATURE_HEADER}: not what the key in drain.publicKey signs for {method}, worker {worker} and this time"
    )]
    Signature {
        /// The request's.
        method: &'static str,
        /// This one.
        worker: String,
    },
}

impl Refusal {
    /// As HTTP says it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Header { .. } => StatusCode::BAD_REQUEST,
            Self::NoKey | Self::Clock { .. } | Self::Old { .. } | Self::Signature { .. } => StatusCode::FORBIDDEN,
        }
    }
}

/// Obeys the operator, and nobody else.
#[derive(Debug)]
pub struct Drains {
    state: Arc<State>,
    config: PathBuf,
    lapses: Duration,
    /// Held from the check of an order until it is obeyed, so that of two the newer one stands.
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    key: Option<DrainKey>,
    /// The last order obeyed, and its time in milliseconds.
    obeyed: Option<(i64, Order)>,
    /// When the config file was last read again.
    reread: Option<Instant>,
}

impl Drains {
    /// With the key as it was at the start; a new one is looked for in the file `config`. A drain that is not renewed ends
    /// after `lapses`.
    pub fn new(state: Arc<State>, key: Option<DrainKey>, config: PathBuf, lapses: Duration) -> Self {
        Self { state, config, lapses, inner: Mutex::new(Inner { key, obeyed: None, reread: None }) }
    }

    /// Does as the request says if the operator sent it, and says why not otherwise. One that comes again changes nothing:
    /// whoever has recorded it cannot make a drain longer.
    pub async fn obey(&self, order: Order, headers: &HeaderMap, now: Timestamp) -> Result<(), Refusal> {
        let mut inner = self.inner.lock().await;
        if inner.key.is_none() {
            self.look_for_key(&mut inner).await;
        }
        if inner.key.is_none() {
            return Err(Refusal::NoKey);
        }
        let sent = header(headers, DRAIN_TIME_HEADER).and_then(|text| text.parse().ok());
        let wanted = "the request's time in milliseconds since 1970";
        let sent: i64 = sent.ok_or(Refusal::Header { header: DRAIN_TIME_HEADER, wanted })?;
        let signature = header(headers, DRAIN_SIGNATURE_HEADER).and_then(|text| BASE64_STANDARD.decode(text).ok());
        let wanted = "an Ed25519 signature in base64";
        let signature = signature.ok_or(Refusal::Header { header: DRAIN_SIGNATURE_HEADER, wanted })?;

        let apart = Duration::from_millis(sent.abs_diff(now.as_millisecond()));
        if apart > DRAIN_CLOCK_SKEW {
            return Err(Refusal::Clock { told: shown(sent), now: rfc3339(now) });
        }
        let repeated = inner.obeyed == Some((sent, order));
        if let Some((last, _)) = inner.obeyed.filter(|(last, _)| sent <= *last && !repeated) {
            return Err(Refusal::Old { told: shown(sent), last: shown(last) });
        }
        let text = drain_text(order.method(), self.state.worker(), sent);
        if !self.is_signed(&mut inner, &text, &signature).await {
            return Err(Refusal::Signature { method: order.method(), worker: self.state.worker().into() });
        }
        if repeated {
            return Ok(());
        }
        inner.obeyed = Some((sent, order));
        self.apply(order);
        Ok(())
    }

    fn apply(&self, order: Order) {
        match order {
            Order::Drain => {
                if self.state.drain(Instant::now() + self.lapses) {
                    let held = self.state.standing().held;
                    tracing::info!(held, "the operator has it drain: no more receives, finishing what is held");
                }
            }
            Order::Resume => {
                if self.state.resume() {
                    tracing::info!("the operator took the drain back: receiving again");
                }
            }
        }
    }

    /// By the key as it is known, or as the config file has it by now.
    async fn is_signed(&self, inner: &mut Inner, text: &str, signature: &[u8]) -> bool {
        let by = |key: &Option<DrainKey>| key.as_ref().is_some_and(|key| key.signed(text, signature));
        if by(&inner.key) {
            return true;
        }
        self.look_for_key(inner).await;
        by(&inner.key)
    }

    /// A mounted ConfigMap is changed in place, so a new key needs no new pods.
    async fn look_for_key(&self, inner: &mut Inner) {
        if inner.reread.is_some_and(|at| at.elapsed() < REREAD) {
            return;
        }
        inner.reread = Some(Instant::now());
        let read = tokio::fs::read_to_string(&self.config).await;
        let read = read.map_err(|source| ConfigError::Read { path: self.config.clone(), source });
        match read.and_then(|text| config::drain_key(&text, &self.config)) {
            Ok(key) => inner.key = key,
            Err(error) => tracing::warn!("the key for drains stays as it was: {error}"),
        }
    }
}

/// Has the worker receive again when nobody renews a drain: the operator may be gone. Runs for ever.
pub async fn resume_when_lapsed(state: Arc<State>) {
    let mut standing = state.watch();
    loop {
        let until = standing.borrow_and_update().drained_until;
        let lapsed = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // the sender lives as long as `state` does
            _ = standing.wait_for(|standing| standing.drained_until != until) => {}
            () = lapsed => if state.lapse() {
                tracing::info!("the drain was not renewed: receiving again");
            }
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn shown(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).map_or_else(|_| milliseconds.to_string(), rfc3339)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use axum::http::HeaderValue;

    use super::*;

    const LAPSES: Duration = Duration::from_mins(1);

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(key: &Ed25519KeyPair) -> String {
        BASE64_STANDARD.encode(key.public_key())
    }

    fn signed(key: &Ed25519KeyPair, text: &str, milliseconds: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(DRAIN_TIME_HEADER, milliseconds.into());
        let signature = BASE64_STANDARD.encode(key.sign(text.as_bytes()));
        headers.insert(DRAIN_SIGNATURE_HEADER, signature.parse().unwrap());
        headers
    }

    fn config(key: &Ed25519KeyPair) -> String {
        format!("drain: {{ publicKey: {} }}", public(key))
    }

    /// A worker `w` whose config file names `key`, where it names one.
    struct Bench {
        folder: tempfile::TempDir,
        state: Arc<State>,
        drains: Drains,
    }

    impl Bench {
        fn new(key: Option<&Ed25519KeyPair>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let state = Arc::new(State::new("w".into(), 1));
            let known = key.map(|key| public(key).parse().unwrap());
            let drains = Drains::new(Arc::clone(&state), known, folder.path().join("worker.yaml"), LAPSES);
            let bench = Self { folder, state, drains };
            bench.write(&key.map_or("{}".into(), config));
            bench
        }

        fn write(&self, config: &str) {
            std::fs::write(self.folder.path().join("worker.yaml"), config).unwrap();
        }

        /// A request as the operator makes it, come at its own time.
        async fn told(&self, order: Order, key: &Ed25519KeyPair, milliseconds: i64) -> Result<(), Refusal> {
            let headers = signed(key, &drain_text(order.method(), "w", milliseconds), milliseconds);
            self.drains.obey(order, &headers, Timestamp::from_millisecond(milliseconds).unwrap()).await
        }
    }

    #[tokio::test]
    async fn only_the_operator_is_obeyed() {
        const NOW: i64 = 1_700_000_000_000;
        let (ours, other) = (key(1), key(2));
        let post = |worker| drain_text("POST", worker, NOW);
        let with = |header: &'static str, value: &'static str| {
            let mut headers = signed(&ours, &post("w"), NOW);
            headers.insert(header, HeaderValue::from_static(value));
            headers
        };
        let without = |header: &str| {
            let mut headers = signed(&ours, &post("w"), NOW);
            headers.remove(header);
            headers
        };
        let far = |milliseconds| signed(&ours, &drain_text("POST", "w", milliseconds), milliseconds);
        let table = [
            ("good", signed(&ours, &post("w"), NOW), None),
            ("within two minutes", far(NOW + 120_000), None),
            ("another key", signed(&other, &post("w"), NOW), Some((403, "millrace-signature: not what the key"))),
            ("another worker", signed(&ours, &post("v"), NOW), Some((403, "for POST, worker w and this time"))),
            ("another method", signed(&ours, &drain_text("DELETE", "w", NOW), NOW), Some((403, "for POST"))),
            ("another time", signed(&ours, &drain_text("POST", "w", NOW - 1), NOW), Some((403, "this time"))),
            (
                "an old one",
                far(NOW - 120_001),
                Some((403, "of 2023-11-14T22:11:19.999Z and this worker's clock says 2023-11-14T22:13:20.000Z")),
            ),
            ("one of tomorrow", far(NOW + 86_400_000), Some((403, "of 2023-11-15T22:13:20.000Z and"))),
            ("no time", without(DRAIN_TIME_HEADER), Some((400, "millrace-time: must be the request's time"))),
            ("a time in words", with(DRAIN_TIME_HEADER, "now"), Some((400, "millrace-time: must be"))),
            ("no time at all", with(DRAIN_TIME_HEADER, "-9223372036854775808"), Some((403, "clock"))),
            ("no signature", without(DRAIN_SIGNATURE_HEADER), Some((400, "millrace-signature: must be"))),
            ("not base64", with(DRAIN_SIGNATURE_HEADER, "?"), Some((400, "millrace-signature: must be"))),
            ("a short signature", with(DRAIN_SIGNATURE_HEADER, "AAAA"), Some((403, "millrace-signature"))),
        ];
        let now = Timestamp::from_millisecond(NOW).unwrap();
        for (name, headers, refused) in table {
            let bench = Bench::new(Some(&ours));
            let answer = bench.drains.obey(Order::Drain, &headers, now).await;
            assert_eq!(bench.state.standing().drains(), refused.is_none(), "{name}: {answer:?}");
            match (answer, refused) {
                (Ok(()), None) => {}
                (Err(refusal), Some((status, says))) => {
                    assert_eq!(refusal.status().as_u16(), status, "{name}: {refusal}");
                    assert!(refusal.to_string().contains(says), "{name}: {refusal}");
                }
                (answer, _) => panic!("{name}: {answer:?}"),
            }
        }
        let nobody = Bench::new(None);
        let refusal = nobody.told(Order::Drain, &ours, NOW).await.unwrap_err();
        assert_eq!((refusal.status().as_u16(), &*refusal.to_string()), (403, "drain.publicKey is not configured"));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_was_recorded_has_an_effect() {
        let (bench, key) = (Bench::new(Some(&key(1))), key(1));
        let old = |answer: Result<(), Refusal>| assert!(matches!(answer, Err(Refusal::Old { .. })), "{answer:?}");
        bench.told(Order::Drain, &key, 1000).await.unwrap();
        let until = bench.state.standing().drained_until;
        tokio::time::advance(LAPSES / 2).await;
        bench.told(Order::Drain, &key, 1000).await.unwrap();
        assert_eq!(bench.state.standing().drained_until, until, "the same one again is no renewal");
        old(bench.told(Order::Drain, &key, 999).await);
        bench.told(Order::Drain, &key, 1001).await.unwrap();
        assert_eq!(bench.state.standing().drained_until, until.map(|until| until + LAPSES / 2));

        bench.told(Order::Resume, &key, 2000).await.unwrap();
        assert!(!bench.state.standing().drains());
        old(bench.told(Order::Drain, &key, 1001).await);
        old(bench.told(Order::Drain, &key, 2000).await);
        bench.told(Order::Resume, &key, 2000).await.unwrap();
        assert!(!bench.state.standing().drains());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_needs_no_new_worker() {
        let (old, new) = (key(1), key(2));
        let bench = Bench::new(Some(&old));
        bench.told(Order::Drain, &old, 1000).await.unwrap();
        let mut at = 1000;
        let mut tell = async |key: &Ed25519KeyPair| {
            at += 1000;
            bench.told(Order::Drain, key, at).await.is_ok()
        };
        assert!(!tell(&new).await, "the file has the old one");
        bench.write(&config(&new));
        assert!(!tell(&new).await, "the file was read a moment ago");
        tokio::time::advance(REREAD).await;
        assert!(tell(&new).await && !tell(&old).await);

        for broken in ["drain: { publicKey: AAAA }", "drain: ["] {
            bench.write(broken);
            tokio::time::advance(REREAD).await;
            assert!(!tell(&old).await && tell(&new).await, "a file that is broken takes no key away");
        }
        bench.write("consumer: { name: echo }");
        tokio::time::advance(REREAD).await;
        assert!(!tell(&old).await && !tell(&new).await, "nobody may any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_drain_ends_by_itself() {
        let (bench, key) = (Bench::new(Some(&key(1))), key(1));
        let lapses = tokio::spawn(resume_when_lapsed(Arc::clone(&bench.state)));
        let start = Instant::now();
        bench.told(Order::Drain, &key, 1000).await.unwrap();
        tokio::time::sleep(LAPSES / 2).await;
        bench.told(Order::Drain, &key, 2000).await.unwrap();
        bench.state.receives().await;
        assert_eq!(start.elapsed().as_secs(), (LAPSES * 3 / 2).as_secs(), "on the paused clock");
        lapses.abort();
    }
}
