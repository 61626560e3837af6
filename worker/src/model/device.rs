//! Which device a model runs on and in which number format.

use candle_core::{DType, Device};
use millrace_api::{Device as Choice, Precision};

use super::LoadError;
use crate::launch::{refusal, wants_gpu};

/// Opens the device that was chosen. `gpus` is how many the pod was given: a GPU that was asked for and cannot be used
/// is an error, never a quiet run on the CPU that takes a hundred times as long; one that was not asked for belongs to
/// somebody else, even where it can be seen.
pub(super) fn open(choice: Choice, gpus: u32) -> Result<Device, LoadError> {
    if wants_gpu(choice, gpus) { cuda() } else { Ok(Device::Cpu) }
}

fn cuda() -> Result<Device, LoadError> {
    if !candle_core::utils::cuda_is_available() {
        return Err(refusal());
    }
    Device::new_cuda(0).map_err(|error| LoadError {
        reason: "DeviceUnavailable",
        message: format!(
            "no CUDA device can be used ({error}): check the node's driver and device plugin and \
             worker.gpu.count, or set model.device: Cpu"
        ),
    })
}

/// The number format of weights and activations on `device`.
pub(super) fn dtype(precision: Precision, device: &Device) -> DType {
    match precision {
        Precision::BF16 => DType::BF16,
        Precision::F16 => DType::F16,
        Precision::Auto if device.is_cuda() => DType::F16,
        Precision::F32 | Precision::Auto => DType::F32,
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_was_asked_for_is_never_replaced_by_the_cpu() {
        for (choice, gpus) in [(Choice::Auto, 1), (Choice::Cuda, 0), (Choice::Cuda, 1)] {
            let error = open(choice, gpus).unwrap_err();
            assert_eq!(error.reason, "DeviceUnavailable");
            assert!(error.message.contains("-cuda") && error.message.contains("model.device: Cpu"), "{error}");
        }
        assert!(open(Choice::Auto, 0).unwrap().is_cpu());
        assert!(open(Choice::Cpu, 1).unwrap().is_cpu());
    }

    #[test]
    fn a_cpu_computes_in_f32_unless_told_otherwise() {
        assert_eq!(dtype(Precision::Auto, &Device::Cpu), DType::F32);
        assert_eq!(dtype(Precision::BF16, &Device::Cpu), DType::BF16);
    }
}
