//! `spec.model.server`: a model server beside the worker, and how a job becomes a request to it and its answer a result.

use serde::{Deserialize, Serialize};

/// A model server that runs in the worker's pod and is asked over HTTP: one POST for each input of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("has(self.container)").message("model.server.container is required: it says which image serves the model")))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("has(self.path) || has(self.preset)").message("model.server.path is required where no preset sets it")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ServerSpec {
    /// Where it listens: on the pod's own addresses, 127.0.0.1 at least. It is told by the variable PORT.
    #[serde(default = "default_port")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 65535)))]
    pub port: i32,

    /// Requests and answers as some API has them: sets `path`, and what becomes of a job that is a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<ServerPreset>,

    /// Where requests go: `/generate`. Default: the preset's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$")))]
    pub path: Option<String>,

    /// Answers 2xx to GET as soon as the server can take requests.
    #[serde(default = "default_health_path")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$")))]
    pub health_path: String,

    /// Most requests at a time, and so the jobs that a worker holds. Fewer are made while the server says that it has too
    /// many.
    #[serde(default = "default_concurrency")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1024)))]
    pub concurrency: i32,

    /// Longest that a request may take, up to the last byte of its answer.
    #[serde(default = "default_timeout")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 42000)))]
    pub timeout_seconds: i32,

    /// Headers of every request. `$(NAME)` in a value is the variable NAME of the worker's environment: a token from a
    /// Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 32)))]
    pub headers: Vec<ServerHeader>,

    /// How a job becomes a request.
    #[serde(default)]
    pub request: ServerRequest,

    /// How an answer becomes a result.
    #[serde(default)]
    pub response: ServerResponse,

    /// The server's container. The operator's alone: worker.yaml has none.
    #[cfg(feature = "kube")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<crate::ServerContainer>,
}

/// An API that many servers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ServerPreset {
    /// `/v1/chat/completions`. A text is one message of the user; so is a job's `prompt`, after its `system`.
    OpenAiChat,
    /// `/v1/completions`. A text is the `prompt`.
    OpenAiCompletions,
    /// `/v1/embeddings`. A text is the `input`.
    OpenAiEmbeddings,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
pub struct ServerHeader {
    /// Its name.
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))
    )]
    pub name: String,
    /// Its value.
    #[cfg_attr(feature = "kube", schemars(length(max = 4096), regex(pattern = r"^[ -~]*$")))]
    pub value: String,
}

/// How a job becomes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!has(self.body) || self.body != 'File' || !has(self.pointer)").message("request.pointer must not be set where request.body is File: the file is all that is sent")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ServerRequest {
    /// What is sent.
    #[serde(default)]
    pub body: RequestBody,

    /// Of that JSON only the value at this JSON pointer: `/image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024), regex(pattern = r"^(/.*)?$")))]
    pub pointer: Option<String>,

    /// The field that a job is which is only a text. Default: the preset's, else `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 128)))]
    pub text_field: Option<String>,

    /// The request's Content-Type. Default: `application/json`, and `application/octet-stream` of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 255), regex(pattern = r"^[!-~]+/[ -~]+$")))]
    pub content_type: Option<String>,
}

/// What a request sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum RequestBody {
    /// The job's input as JSON, over `model.parameters`.
    #[default]
    Input,
    /// Of a task envelope all of it as JSON; of any other job its input.
    Envelope,
    /// The bytes of the input's field `file`: base64, or an object as `s3://bucket/key`; or of the object that an S3
    /// event tells of.
    File,
}

/// How an answer becomes a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServerResponse {
    /// The record's `value`, as a JSON pointer into the answer: `/choices/0/message/content`. Default: all of it, and
    /// nothing where the answer becomes files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024), regex(pattern = r"^(/.*)?$")))]
    pub value: Option<String>,

    /// A file in base64 within the answer, or a list of such, as a JSON pointer: `/images`. An answer that is no JSON is a
    /// file by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024), regex(pattern = r"^(/.*)?$")))]
    pub file: Option<String>,

    /// Content-Type of the files. Default: the answer's own where it is the file, else `application/octet-stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 255), regex(pattern = r"^[!-~]+/[ -~]+$")))]
    pub content_type: Option<String>,

    /// Extension of the files, without the dot. Default: by the Content-Type, else `bin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 16), regex(pattern = r"^[A-Za-z0-9]+$")))]
    pub extension: Option<String>,

    /// Most MiB of an answer, which is held in memory for each request.
    #[serde(default = "default_max_mebibytes")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 4096)))]
    pub max_mebibytes: i32,
}

impl Default for ServerResponse {
    fn default() -> Self {
        Self { value: None, file: None, content_type: None, extension: None, max_mebibytes: default_max_mebibytes() }
    }
}

impl ServerSpec {
    /// Where requests go.
    pub fn request_path(&self) -> &str {
        self.path.as_deref().or(self.preset.map(ServerPreset::path)).unwrap_or("/")
    }
}

impl ServerPreset {
    /// Where its requests go.
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAiChat => "/v1/chat/completions",
            Self::OpenAiCompletions => "/v1/completions",
            Self::OpenAiEmbeddings => "/v1/embeddings",
        }
    }

    /// The field that a text is.
    pub fn text_field(self) -> &'static str {
        match self {
            Self::OpenAiChat | Self::OpenAiCompletions => "prompt",
            Self::OpenAiEmbeddings => "input",
        }
    }
}

fn default_port() -> i32 {
    8000
}

fn default_health_path() -> String {
    "/health".into()
}

fn default_concurrency() -> i32 {
    1
}

fn default_timeout() -> i32 {
    600
}

fn default_max_mebibytes() -> i32 {
    64
}
