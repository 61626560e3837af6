//! The operator's key: it signs what workers are told, and workers hold the public half in worker.yaml.
//!
//! It lies in a Secret of the operator's own namespace, made by the first leader, so that it outlives the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use millrace_api::drain_text;

use crate::apply::FIELD_MANAGER;
use crate::error::{CallError, within};

/// The Secret's name.
pub(crate) const SECRET: &str = "millrace-operator-drain-key";
/// The Secret's key: PKCS#8, with the public half.
const PKCS8: &str = "pkcs8";
/// The pause between two attempts, as the API server may be away for a moment.
const PAUSE: Duration = Duration::from_secs(2);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// Run by hand.
    #[error("POD_NAMESPACE is not set, so there is no place for Secret {SECRET}")]
    NoNamespace,
    /// It may be neither read nor made, or the API server does not answer.
    #[error("Secret {namespace}/{SECRET} cannot be read or made: {source}")]
    Unavailable { namespace: String, source: CallError },
    /// Somebody wrote something else into it.
    #[error("Secret {namespace}/{SECRET} holds no Ed25519 key under {PKCS8}: delete it, and restart the operator")]
    Unusable { namespace: String },
    /// No key could be made.
    #[error("no Ed25519 key could be made")]
    Entropy,
}

impl KeyError {
    /// Whether it may go well at another time, with nothing changed.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { source, .. } if !source.is_refusal())
    }
}

/// Signs what workers are told.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    fn from_pkcs8(document: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_pkcs8(document).ok().map(Self)
    }

    /// The public half, in base64.
    pub(crate) fn public_key(&self) -> String {
        STANDARD.encode(self.0.public_key())
    }

    /// The signature of a request to a worker, in base64.
    pub(crate) fn sign(&self, method: &str, worker: &str, milliseconds: i64) -> String {
        STANDARD.encode(self.0.sign(drain_text(method, worker, milliseconds).as_bytes()))
    }
}

/// The key of this cluster: read, or made where there is none. As long as the API server does not answer it is asked again:
/// nothing can be done without it. Where it refuses there is a warning that says what follows.
pub(crate) async fn load(client: &Client, namespace: Option<&str>) -> Option<Signer> {
    loop {
        match read_or_make(client, namespace).await {
            Ok(signer) => return Some(signer),
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "trying again in {} s", PAUSE.as_secs());
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "workers are not asked to drain: where fewer are needed, those go that report for 10 s that they are idle, and one may receive a job in its last moment"
                );
                return None;
            }
        }
    }
}

async fn read_or_make(client: &Client, namespace: Option<&str>) -> Result<Signer, KeyError> {
    let namespace = namespace.filter(|n| !n.is_empty()).ok_or(KeyError::NoNamespace)?;
    let unavailable = |source| KeyError::Unavailable { namespace: namespace.into(), source };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match within(api.get_opt(SECRET)).await.map_err(unavailable)? {
        Some(secret) => secret,
        None => match within(api.create(&parameters(), &fresh()?)).await {
            // Another replica was a moment faster.
            Err(error) if error.is_already_exists() => within(api.get(SECRET)).await.map_err(unavailable)?,
            made => made.map_err(unavailable)?,
        },
    };
    let document = secret.data.as_ref().and_then(|data| data.get(PKCS8));
    let signer = document.and_then(|document| Signer::from_pkcs8(&document.0));
    signer.ok_or_else(|| KeyError::Unusable { namespace: namespace.into() })
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

fn fresh() -> Result<Secret, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Entropy)?;
    Ok(Secret {
        metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([(PKCS8.to_owned(), ByteString(document.as_ref().to_vec()))])),
        ..Secret::default()
    })
}

/// A key and its public half.
#[cfg(test)]
pub(crate) fn drain_key() -> (Signer, String) {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let signer = Signer::from_pkcs8(document.as_ref()).unwrap();
    let public_key = signer.public_key();
    (signer, public_key)
}

/// Whether a signature is right, as a worker judges it.
#[cfg(test)]
pub(crate) fn verifies(public_key: &str, text: &str, signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let public_key = STANDARD.decode(public_key).unwrap();
    UnparsedPublicKey::new(&ED25519, public_key).verify(text.as_bytes(), signature).is_ok()
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
