//! A repository of the Hugging Face hub as a store.
//!
//! Files are streamed by way of `resolve` rather than into hf-hub's own cache: that one keeps whatever a failed request
//! answered as the file, cannot go on from the last byte, and has no limit on how long it waits.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel, split_id};
use millrace_api::HuggingFaceSource;
use reqwest::{Client, Url, redirect};
use sha2::{Digest, Sha256};

use super::checksum::Checksum;
use super::error::{SourceError, causes};
use super::store::{Chunks, Listing, RemoteFile, Store};
use super::{Fetched, Hold, Progress, download};

const AGENT: &str = concat!("millrace-worker/", env!("CARGO_PKG_VERSION"));

/// Fetches the repository's files at the revision into a folder of its own below `cache`.
pub(super) async fn fetch(
    source: &HuggingFaceSource,
    token: Option<String>,
    cache: &Path,
    progress: &Progress,
) -> Result<(Fetched, Hold), SourceError> {
    let store = HubRepository::new(source, token)?;
    let variant = source.variant.as_deref();
    let id = hex::encode(&Sha256::digest(download::source(&store, variant))[..8]);
    let folder = cache.join("huggingface").join(format!("{}-{id}", source.repository.replace('/', "--")));
    download::fetch(&store, variant, &folder, progress).await
}

struct HubRepository {
    repository: HFRepository<RepoTypeModel>,
    /// For the one header that hf-hub does not give away: it is in the answer that redirects to the content.
    plain: Client,
    token: Option<String>,
    endpoint: String,
    name: String,
    revision: String,
    /// The Secret that holds the token, in messages.
    secret: String,
}

impl HubRepository {
    fn new(source: &HuggingFaceSource, token: Option<String>) -> Result<Self, SourceError> {
        let mut builder = HFClient::builder().user_agent(AGENT);
        if let Some(token) = token.clone() {
            builder = builder.token(token);
        }
        if let Some(endpoint) = &source.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let invalid = |error: &dyn std::error::Error| SourceError::Invalid {
            problem: format!("huggingFace.endpoint: {}", causes(error)),
        };
        let client = builder.build().map_err(|error| invalid(&error))?;
        let plain = Client::builder().user_agent(AGENT).redirect(redirect::Policy::none()).read_timeout(HEAD);
        let plain = plain.build().map_err(|error| invalid(&error))?;
        let (owner, name) = split_id(&source.repository);
        Ok(Self {
            repository: client.model(owner, name),
            endpoint: client.endpoint().to_owned(),
            name: source.repository.clone(),
            revision: source.revision.clone(),
            plain,
            token,
            secret: match &source.token_secret_ref {
                Some(secret) => format!("Secret {}, key {}", secret.name, secret.key),
                None => "a Secret that huggingFace.tokenSecretRef names".into(),
            },
        })
    }

    /// What an error of hf-hub means for `what`.
    fn failed(&self, what: String, error: &HFError) -> SourceError {
        let answer = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. } => Some(context),
            HFError::RepoNotFound { context, .. }
            | HFError::RevisionNotFound { context, .. }
            | HFError::EntryNotFound { context, .. } => context.as_ref(),
            _ => None,
        };
        let said = answer.map_or_else(
            || causes(error),
            |answer| {
                let message = answer.server_message.clone().or_else(|| answer.error_code.clone());
                message.map_or_else(
                    || format!("HTTP {}", answer.status),
                    |m| format!("HTTP {}: {m}", answer.status.as_u16()),
                )
            },
        );
        match answer.map(|answer| (answer.status.as_u16(), answer.error_code.as_deref())) {
            Some((401 | 403, code)) => SourceError::AccessDenied { what, said, fix: self.access(code) },
            Some((404, code)) => SourceError::NotFound {
                what,
                fix: match code {
                    Some("RevisionNotFound") => "correct huggingFace.revision: a branch, tag or commit".into(),
                    Some("EntryNotFound") => {
                        "the file is gone from the repository; pin huggingFace.revision to a commit".into()
                    }
                    _ => format!("{} says {said}; correct huggingFace.repository or revision", self.endpoint),
                },
            },
            _ => SourceError::Unreachable { what, endpoint: self.endpoint.clone(), said },
        }
    }

    /// What gives access. The hub says 401 for a repository that does not exist, too, so as not to tell which do.
    fn access(&self, code: Option<&str>) -> String {
        match (code, self.token.is_some()) {
            (Some("GatedRepo"), true) => format!(
                "accept the conditions at {}/{} with the account of the token in {}",
                self.endpoint, self.name, self.secret
            ),
            (Some("GatedRepo"), false) => format!(
                "accept the conditions at {}/{} and put a token of that account into {}",
                self.endpoint, self.name, self.secret
            ),
            (_, true) => format!("check the repository's name, and that the token in {} may read it", self.secret),
            (_, false) => format!("check the repository's name; if it is private, put a token into {}", self.secret),
        }
    }
}

/// Longest wait for the answer to a HEAD.
const HEAD: Duration = Duration::from_secs(30);

impl Store for HubRepository {
    fn name(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }

    fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    async fn list(&self) -> Result<Listing, SourceError> {
        let failed = |error| self.failed(format!("repository {}", self.name()), &error);
        let info = self.repository.info().revision(&self.revision).expand(vec!["sha".into()]).send().await;
        let commit = info.map_err(failed)?.sha.ok_or_else(|| SourceError::Unreachable {
            what: format!("repository {}", self.name()),
            endpoint: self.endpoint.clone(),
            said: "it names no commit, so it does not speak the hub's protocol".into(),
        })?;
        let entries = self.repository.list_tree().revision(&commit).recursive(true).send().map_err(failed)?;
        let entries: Vec<RepoTreeEntry> = entries.try_collect().await.map_err(failed)?;
        let mut files = Vec::new();
        for entry in entries {
            if let RepoTreeEntry::File { oid, size, path, .. } = entry {
                files.push(RemoteFile::new(&self.name(), path, size, oid)?);
            }
        }
        Ok(Listing { files, revision: Some(commit) })
    }

    async fn open(&self, file: &RemoteFile, commit: &str, range: Range<u64>) -> Result<Chunks, SourceError> {
        let endpoint = self.endpoint.clone();
        let what = format!("{} of repository {}", file.path, self.name());
        let part = (range != (0..file.size)).then_some(range);
        let request = self.repository.download_file_stream().filename(&file.path).revision(commit).maybe_range(part);
        let (_, chunks) = request.send().await.map_err(|error| self.failed(what.clone(), &error))?;
        let broken = move |error: HFError| SourceError::Unreachable {
            what: what.clone(),
            endpoint: endpoint.clone(),
            said: causes(&error),
        };
        Ok(chunks.map_err(broken).boxed())
    }

    /// The SHA-256 by which LFS knows a file. Small files are in git, by a hash of another kind.
    async fn checksum(&self, file: &RemoteFile, commit: &str) -> Result<Option<Checksum>, SourceError> {
        let invalid = |problem: String| SourceError::Invalid { problem: format!("huggingFace.endpoint: {problem}") };
        let mut url = Url::parse(&self.endpoint).map_err(|error| invalid(error.to_string()))?;
        let mut segments = url.path_segments_mut().map_err(|()| invalid("is no address of a server".into()))?;
        segments.pop_if_empty().extend(self.name.split('/')).push("resolve").push(commit).extend(file.path.split('/'));
        drop(segments);
        let mut request = self.plain.head(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|error| SourceError::Unreachable {
            what: format!("{} of repository {}", file.path, self.name()),
            endpoint: self.endpoint.clone(),
            said: causes(&error),
        })?;
        let linked = answer.headers().get("x-linked-etag").and_then(|value| value.to_str().ok());
        Ok(linked.and_then(|etag| Checksum::sha256(etag.trim_matches('"'))))
    }
}

#[cfg(test)]
#[path = "hugging_face_tests.rs"]
mod tests;
