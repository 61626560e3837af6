//! What an engine is loaded from and onto.

use std::path::{Path, PathBuf};

use millrace_api::{Device, ModelSpec, Precision};
use serde_json::{Map, Value};

use crate::trouble::Troubles;

/// What an engine is loaded from and onto.
#[derive(Debug, Clone)]
pub struct Loading {
    /// The model's folder, downloaded or mounted as `model.source` says; empty where there is no source.
    pub dir: PathBuf,
    /// Where it runs.
    pub device: Device,
    /// Its numbers.
    pub precision: Precision,
    /// Of the weight files.
    pub variant: Option<String>,
    /// GPUs that the pod was given.
    pub gpus: u32,
    /// The consumer's parameters, of which some are for the loader.
    pub parameters: Map<String, Value>,
    /// Where the engine tells what keeps it from working.
    pub troubles: Troubles,
}

impl Loading {
    /// As `spec` says, from `dir`.
    pub fn new(spec: &ModelSpec, dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            device: spec.device,
            precision: spec.precision,
            variant: spec.source.as_ref().and_then(|s| s.variant()).map(str::to_owned),
            gpus: gpus_given(),
            parameters: spec.parameters.clone(),
            troubles: Troubles::default(),
        }
    }
}

/// GPUs that the pod was given: `MILLRACE_GPU_COUNT`, which the operator sets.
pub fn gpus_given() -> u32 {
    std::env::var("MILLRACE_GPU_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}
