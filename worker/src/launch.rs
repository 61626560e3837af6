//! Which program runs the model, and on how many threads: settled before anything else, because both may mean to begin
//! anew as another program with the same process id and arguments.
//!
//! An image for GPUs has two builds of the worker side by side. The CPU build is the entrypoint, as it starts anywhere; it
//! looks at the driver and gives way to the CUDA build where that will work. Where it will not, it stays, and says so
//! where every model that does not load says so.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace_api::{Device, Task};

use crate::driver::{Driver, Version, needed};
use crate::model::LoadError;

/// The CUDA build beside this one.
const SIBLING: &str = "millrace-worker-cuda";
/// The CUDA version that the image was built with, set by it.
const CUDA: &str = "MILLRACE_CUDA_VERSION";
/// Read by candle whenever it splits work, and by rayon once.
const THREADS: &str = "RAYON_NUM_THREADS";

/// What a command is going to run, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The task; one that computes nothing itself runs anywhere.
    pub task: Task,
    /// Where the model is to run.
    pub device: Device,
    /// GPUs that the pod was given.
    pub gpus: u32,
}

/// Whether a GPU must serve a model of `device` in a pod that was given `gpus`.
pub fn wants_gpu(device: Device, gpus: u32) -> bool {
    match device {
        Device::Cpu => false,
        Device::Cuda => true,
        Device::Auto => gpus > 0,
    }
}

/// Who serves a model that wants a GPU.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    /// The program at this path.
    Sibling(&'a Path),
    /// Nobody can.
    Nobody(LoadError),
}

/// Begins anew as the program that serves `wish` best, and returns where that is the one that runs already. Nothing else
/// may have been started yet.
pub fn settle(wish: Wish) {
    if !wish.task.needs_source() {
        return;
    }
    let Ok(own) = std::env::current_exe() else { return };
    let threads = threads();
    let sibling = if cfg!(feature = "cuda") || !wants_gpu(wish.device, wish.gpus) { None } else { beside(&own) };
    let program = match sibling.as_deref().map(|path| choose(Some(path), &driver(), cuda_version().as_deref())) {
        Some(Choice::Sibling(path)) => path,
        Some(Choice::Nobody(_)) | None if threads.is_some() => &own,
        // told when the model is loaded, again and again
        Some(Choice::Nobody(_)) | None => return,
    };
    let error = become_program(program, threads);
    tracing::error!("cannot go on as {}: {error}", program.display());
}

/// Why this build, which has no CUDA, cannot serve a model that wants a GPU.
pub fn refusal() -> LoadError {
    let sibling = std::env::current_exe().ok().and_then(|own| beside(&own));
    match choose(sibling.as_deref(), &driver(), cuda_version().as_deref()) {
        Choice::Nobody(error) => error,
        Choice::Sibling(path) => unavailable(format!(
            "{} was not started or could not be: the log's first lines say why; a new pod tries again",
            path.display()
        )),
    }
}

fn choose<'a>(sibling: Option<&'a Path>, driver: &Driver, cuda: Option<&str>) -> Choice<'a> {
    const WAYS_OUT: &str = "or set model.device: Cpu";
    let Some(sibling) = sibling else {
        let message = format!("this worker was built without CUDA: use the image whose tag ends in -cuda, {WAYS_OUT}");
        return Choice::Nobody(unavailable(message));
    };
    match (driver, cuda.and_then(needed)) {
        (Driver::Missing, _) => Choice::Nobody(unavailable(format!(
            "the node has no NVIDIA driver (neither libcuda.so.1 nor /proc/driver/nvidia/version is there): \
             schedule the pod to a node with GPUs by worker.gpu.count, {WAYS_OUT}"
        ))),
        (Driver::Withheld(version), _) => Choice::Nobody(unavailable(format!(
            "the node's NVIDIA driver {version} was not given to this pod (no libcuda.so.1): ask for a GPU by \
             worker.gpu.count, and set worker.runtimeClassName where NVIDIA's runtime is not the default, {WAYS_OUT}"
        ))),
        (Driver::Found(Some(found)), Some(needed)) if *found < needed => {
            Choice::Nobody(too_old(found, &needed, cuda.unwrap_or_default(), WAYS_OUT))
        }
        (Driver::Found(_), _) => Choice::Sibling(sibling),
    }
}

fn too_old(found: &Version, needed: &Version, cuda: &str, ways_out: &str) -> LoadError {
    LoadError {
        reason: "DriverTooOld",
        message: format!(
            "the node's NVIDIA driver is {found}, and this image's CUDA {cuda} needs {needed} or later: update the \
             driver, build the image with an older CUDA (--build-arg CUDA=), {ways_out}"
        ),
    }
}

fn unavailable(message: String) -> LoadError {
    LoadError { reason: "DeviceUnavailable", message }
}

fn driver() -> Driver {
    Driver::find(Path::new("/"), &std::env::var("LD_LIBRARY_PATH").unwrap_or_default())
}

fn cuda_version() -> Option<String> {
    std::env::var(CUDA).ok()
}

fn beside(own: &Path) -> Option<PathBuf> {
    Some(own.with_file_name(SIBLING)).filter(|path| path.is_file())
}

/// How many threads candle is to be told of, where it would not see by itself.
fn threads() -> Option<usize> {
    let allowed = std::thread::available_parallelism().ok()?.get();
    bounded(std::env::var_os(THREADS).is_some(), allowed, candle_core::utils::get_num_threads())
}

/// candle counts the node's cores; a container that may use fewer (`allowed`: its CPU limit, its CPU set) would have more
/// threads than it can run, and they wait for each other busily.
fn bounded(is_set: bool, allowed: usize, counted: usize) -> Option<usize> {
    if !is_set && allowed < counted { Some(allowed) } else { None }
}

/// Only an error comes back.
fn become_program(program: &Path, threads: Option<usize>) -> io::Error {
    tracing::info!(program = %program.display(), threads, "going on as another program");
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    if let Some(threads) = threads {
        command.env(THREADS, threads.to_string());
    }
    command.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str) -> Driver {
        Driver::Found(Some(version.parse().unwrap()))
    }

    #[test]
    fn a_gpu_is_wanted_where_it_was_asked_for() {
        let table =
            [(Device::Auto, 0, false), (Device::Auto, 1, true), (Device::Cuda, 0, true), (Device::Cpu, 1, false)];
        for (device, gpus, wanted) in table {
            assert_eq!(wants_gpu(device, gpus), wanted, "{device:?} {gpus}");
        }
    }

    #[test]
    fn the_cuda_build_runs_where_the_driver_serves_it() {
        let sibling = Path::new("/millrace-worker-cuda");
        let table = [
            (found("570.26"), Some("12.8.1")),
            (found("570.124.06"), Some("12.8.1")),
            (found("580.65.06"), Some("12.8.1")),
            // let it find out by itself
            (Driver::Found(None), Some("12.8.1")),
            (found("470.82"), None),
            (found("470.82"), Some("99.1.0")),
        ];
        for (driver, cuda) in table {
            assert_eq!(choose(Some(sibling), &driver, cuda), Choice::Sibling(sibling), "{driver:?} {cuda:?}");
        }
    }

    #[test]
    fn what_stands_in_the_way_of_a_gpu_is_said_with_the_way_out() {
        let withheld = Driver::Withheld("570.26".parse().unwrap());
        let table = [
            (false, found("570.26"), "DeviceUnavailable", "built without CUDA"),
            (true, Driver::Missing, "DeviceUnavailable", "no NVIDIA driver"),
            (true, withheld, "DeviceUnavailable", "570.26 was not given to this pod"),
            (true, found("535.104.05"), "DriverTooOld", "is 535.104.05, and this image's CUDA 12.8.1 needs 570.26"),
        ];
        for (has_sibling, driver, reason, words) in table {
            let sibling = has_sibling.then_some(Path::new("/millrace-worker-cuda"));
            let Choice::Nobody(error) = choose(sibling, &driver, Some("12.8.1")) else { panic!("{driver:?}") };
            assert_eq!(error.reason, reason);
            assert!(error.message.contains(words) && error.message.contains("model.device: Cpu"), "{error}");
        }
    }

    #[test]
    fn threads_are_told_only_where_the_container_has_fewer_than_the_node() {
        let table = [
            (false, 4, 32, Some(4)),
            (false, 32, 32, None),
            // two threads a core: candle takes one
            (false, 64, 32, None),
            (true, 4, 32, None),
        ];
        for (is_set, allowed, counted, wanted) in table {
            assert_eq!(bounded(is_set, allowed, counted), wanted, "{is_set} {allowed} {counted}");
        }
    }
}
