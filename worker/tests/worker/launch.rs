//! The two builds of an image for GPUs: the CPU build is started, and gives way to the CUDA build or says why it cannot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_millrace-worker");

/// A folder with the worker, a script that stands for the CUDA build, and NVIDIA's library as of `driver`.
fn image(driver: &str) -> TempDir {
    // beside the binary, as it is linked and a link stays within a file system
    let folder = tempfile::tempdir_in(Path::new(BINARY).parent().unwrap()).unwrap();
    fs::hard_link(BINARY, folder.path().join("millrace-worker")).unwrap();
    let sibling = folder.path().join("millrace-worker-cuda");
    fs::write(&sibling, "#!/bin/sh\necho \"$$|$RAYON_NUM_THREADS|$*\"\nexit 7\n").unwrap();
    fs::set_permissions(&sibling, fs::Permissions::from_mode(0o755)).unwrap();
    let library = format!("libcuda.so.{driver}");
    fs::write(folder.path().join(&library), "").unwrap();
    symlink(library, folder.path().join("libcuda.so.1")).unwrap();
    folder
}

/// `millrace-worker infer` in `image`, and its process id.
fn infer(image: &TempDir, device: &str, gpus: &str) -> (u32, Output) {
    let mut command = Command::new(image.path().join("millrace-worker"));
    command.args(["infer", "--task", "TextToImage", "--input", "a lighthouse", "--device", device, "--model"]);
    command.arg(image.path()).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LD_LIBRARY_PATH", image.path()).env("MILLRACE_CUDA_VERSION", "12.8.1");
    let child = command.env("MILLRACE_GPU_COUNT", gpus).env("RAYON_NUM_THREADS", "3").spawn().unwrap();
    (child.id(), child.wait_with_output().unwrap())
}

#[test]
fn the_cpu_build_gives_way_to_the_cuda_build_under_the_same_process_id() {
    let image = image("570.124.06");
    for (device, gpus) in [("cuda", "0"), ("auto", "1")] {
        let (id, output) = infer(&image, device, gpus);
        let folder = image.path().display();
        let arguments = format!("infer --task TextToImage --input a lighthouse --device {device} --model {folder}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{id}|3|{arguments}\n"));
        assert_eq!(output.status.code(), Some(7));
    }
}

#[test]
fn an_old_driver_is_named_and_the_cpu_is_no_substitute() {
    let (_, output) = infer(&image("535.104.05"), "auto", "1");
    let log = String::from_utf8_lossy(&output.stderr);
    for words in ["driver is 535.104.05", "CUDA 12.8.1 needs 570.26 or later", "model.device: Cpu"] {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn nobody_asked_for_a_gpu() {
    let image = image("570.124.06");
    for device in ["auto", "cpu"] {
        let (_, output) = infer(&image, device, "0");
        let log = String::from_utf8_lossy(&output.stderr);
        // it was the CPU build that looked for a model, and found none
        assert!(log.contains("model_index.json"), "{log}");
        assert_eq!(output.status.code(), Some(1));
    }
}
