//! A repository of the Hugging Face hub as a store.
//!
//! Files are streamed by way of `resolve` rather than into hf-hub's own cache: that one keeps whatever a failed request
//! answered as the file, cannot go on from the last byte, and has no limit on how long it waits.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel, split_id};
use millrace_api::HuggingFaceSource;

use super::error::{SourceError, causes};
use super::store::{Chunks, Listing, RemoteFile, Store};
use super::{Fetched, Progress, download};

/// Fetches the repository's files at the revision into a folder of its own below `cache`.
pub(super) async fn fetch(
    source: &HuggingFaceSource,
    token: Option<String>,
    cache: &Path,
    progress: &Progress,
) -> Result<Fetched, SourceError> {
    let store = HubRepository::new(source, token)?;
    let folder = cache.join("huggingface").join(source.repository.replace('/', "--"));
    download::fetch(&store, source.variant.as_deref(), &folder, progress).await
}

struct HubRepository {
    repository: HFRepository<RepoTypeModel>,
    endpoint: String,
    name: String,
    revision: String,
    has_token: bool,
    /// The Secret that holds the token, in messages.
    secret: String,
}

impl HubRepository {
    fn new(source: &HuggingFaceSource, token: Option<String>) -> Result<Self, SourceError> {
        let has_token = token.is_some();
        let mut builder = HFClient::builder().user_agent(concat!("millrace-worker/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            builder = builder.token(token);
        }
        if let Some(endpoint) = &source.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let client = builder
            .build()
            .map_err(|error| SourceError::Invalid { problem: format!("huggingFace.endpoint: {}", causes(&error)) })?;
        let (owner, name) = split_id(&source.repository);
        Ok(Self {
            repository: client.model(owner, name),
            endpoint: client.endpoint().to_owned(),
            name: source.repository.clone(),
            revision: source.revision.clone(),
            has_token,
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
        match (code, self.has_token) {
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

    async fn open(&self, file: &RemoteFile, commit: &str, from: u64) -> Result<Chunks, SourceError> {
        let endpoint = self.endpoint.clone();
        let what = format!("{} of repository {}", file.path, self.name());
        let range = (from > 0).then_some(from..file.size);
        let request = self.repository.download_file_stream().filename(&file.path).revision(commit).maybe_range(range);
        let (_, chunks) = request.send().await.map_err(|error| self.failed(what.clone(), &error))?;
        let broken = move |error: HFError| SourceError::Unreachable {
            what: what.clone(),
            endpoint: endpoint.clone(),
            said: causes(&error),
        };
        Ok(chunks.map_err(broken).boxed())
    }
}

#[cfg(test)]
#[path = "hugging_face_tests.rs"]
mod tests;
