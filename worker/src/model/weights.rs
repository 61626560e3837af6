//! Reads safetensors tensor by tensor straight from the file, so loading needs the memory of one tensor beside the
//! model, whatever the file's size. No memory mapping: that would be `unsafe`, and a file on a network volume that
//! changes under a mapping kills the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::{DType, Device, Error, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::tensor::{Metadata, TensorInfo};

use super::folder::{corrupt, unreadable};
use super::{LoadError, RunError};

/// A longer header is no header; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Something that is added to a tensor when it is read.
pub(super) trait Delta: std::fmt::Debug + Send + Sync {
    /// What is added to a tensor of this shape, f32.
    fn of_shape(&self, shape: &[usize]) -> CandleResult<Tensor>;
}

/// The open weight files of one component.
#[derive(Debug)]
pub(super) struct Weights {
    label: String,
    shards: Vec<Shard>,
    /// Which shard has a tensor, and where.
    tensors: HashMap<String, (usize, TensorInfo)>,
    /// What is added to tensors, by their names.
    deltas: HashMap<String, Vec<Box<dyn Delta>>>,
    /// What the headers say besides tensors.
    notes: HashMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    /// Relative to the model's folder.
    name: String,
    file: File,
    /// Where the header ends and the tensors begin.
    start: u64,
}

impl Weights {
    /// Opens `files` (relative to `root`) and reads their headers. `label` is the file that messages name.
    pub(super) fn open(label: &str, root: &Path, files: &[String]) -> Result<Self, LoadError> {
        let mut weights = Self {
            label: label.to_owned(),
            shards: Vec::new(),
            tensors: HashMap::new(),
            deltas: HashMap::new(),
            notes: HashMap::new(),
        };
        for (number, name) in files.iter().enumerate() {
            let file = File::open(root.join(name)).map_err(|error| unreadable(name, &error))?;
            let (start, metadata) = read_header(name, &file)?;
            let infos = metadata.tensors().into_iter().map(|(tensor, info)| (tensor, (number, info.clone())));
            weights.tensors.extend(infos);
            weights.notes.extend(metadata.metadata().clone().unwrap_or_default());
            weights.shards.push(Shard { name: name.clone(), file, start });
        }
        Ok(weights)
    }

    /// The names of all tensors, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, where there is one.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(_, info)| info.shape.clone())
    }

    /// What the files' `__metadata__` says under a name.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    /// Adds to a tensor whenever it is read.
    pub(super) fn lay_over(&mut self, name: &str, delta: impl Delta + 'static) {
        self.deltas.entry(name.to_owned()).or_default().push(Box::new(delta));
    }

    /// Reads a tensor.
    pub(super) fn read(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        let missing = || Error::CannotFindTensor { path: name.to_owned() };
        let (number, info) = self.tensors.get(name).ok_or_else(missing)?;
        let shard = self.shards.get(*number).ok_or_else(missing)?;
        let (from, to) = info.data_offsets;
        let mut data = vec![0; to - from];
        shard.file.read_exact_at(&mut data, shard.start + from as u64)?;
        let dtype_of_file = info.dtype.try_into()?;
        let Some(deltas) = self.deltas.get(name) else {
            return Tensor::from_raw_buffer(&data, dtype_of_file, &info.shape, device)?.to_dtype(dtype);
        };
        // summed up in f32, and rounded once
        let mut tensor =
            Tensor::from_raw_buffer(&data, dtype_of_file, &info.shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        for delta in deltas {
            tensor = (tensor + delta.of_shape(&info.shape)?)?;
        }
        tensor.to_dtype(dtype)?.to_device(device)
    }

    /// Builds a component from these weights; they are closed after it.
    pub(super) fn build<M>(
        self,
        dtype: DType,
        device: &Device,
        make: impl FnOnce(VarBuilder) -> CandleResult<M>,
    ) -> Result<M, LoadError> {
        let (label, places) = (self.label.clone(), self.places());
        let made = make(VarBuilder::from_backend(Box::new(self), dtype, device.clone()));
        made.map_err(|error| explain(&label, &places, &error))
    }

    /// Which file each tensor is in.
    fn places(&self) -> HashMap<String, String> {
        let place = |(tensor, (number, _)): (&String, &(usize, TensorInfo))| {
            Some((tensor.clone(), self.shards.get(*number)?.name.clone()))
        };
        self.tensors.iter().filter_map(place).collect()
    }
}

fn read_header(name: &str, mut file: &File) -> Result<(u64, Metadata), LoadError> {
    let length = file.metadata().map_err(|error| unreadable(name, &error))?.len();
    let cut = |needs: u64| corrupt(name, &format!("the file is cut short: it has {length} of {needs} bytes"));
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| cut(8))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        return Err(corrupt(name, "not a safetensors file"));
    }
    // before there is memory for it: a file of nine bytes may say that its header has a hundred million
    if size > length {
        return Err(cut(8 + size));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|_| cut(8 + size))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| corrupt(name, &format!("its header is wrong: {error}")))?;
    let needs = 8 + size + metadata.data_len() as u64;
    match length {
        length if length < needs => Err(cut(needs)),
        length if length > needs => {
            Err(corrupt(name, &format!("the file has {length} bytes where its header says {needs}")))
        }
        _ => Ok((8 + size, metadata)),
    }
}

impl SimpleBackend for Weights {
    fn get(&self, expected: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        if let Some((_, info)) = self.tensors.get(name)
            && info.shape != expected.dims()
        {
            return Err(Error::UnexpectedShape { msg: name.to_owned(), expected, got: info.shape.clone().into() });
        }
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.read(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Says what a failure to build a component means for who looks after the model. `file` is the component's weights or
/// their index, `places` the file of each tensor.
pub(super) fn explain(file: &str, places: &HashMap<String, String>, error: &Error) -> LoadError {
    match cause(error) {
        Error::CannotFindTensor { path } => corrupt(file, &format!("it has no tensor {path}")),
        Error::UnexpectedShape { msg, expected, got } => corrupt(
            places.get(msg).map_or(file, String::as_str),
            &format!("tensor {msg} has shape {:?} where config.json asks for {:?}", got.dims(), expected.dims()),
        ),
        Error::Io(error) => unreadable(file, error),
        other if is_out_of_memory(other) => LoadError {
            reason: "OutOfMemory",
            message: format!(
                "no memory left on the device while loading {file}; use a larger GPU or model.precision: F16 ({other})"
            ),
        },
        other => corrupt(file, &other.to_string()),
    }
}

/// An error without what candle wraps around it: a backtrace, where the environment asks for one, is of no use to a
/// producer.
pub(super) fn cause(error: &Error) -> &Error {
    match error {
        Error::Context { inner, .. } | Error::WithPath { inner, .. } | Error::WithBacktrace { inner, .. } => {
            cause(inner)
        }
        other => other,
    }
}

/// CUDA reports a full device only in words.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|words| text.contains(words))
}

/// What a failure of the model is to the job.
pub(super) fn run_error(error: &Error) -> RunError {
    let error = cause(error);
    if is_out_of_memory(error) {
        return RunError::OutOfMemory(error.to_string());
    }
    RunError::Model(error.to_string())
}
