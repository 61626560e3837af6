//! Flash attention, on GPUs that can: scores are worked off in the GPU's own small memory and never written to the large
//! one. Built by the feature flash-attn; the plain way stays for everything that this cannot do.

use candle_core::DType;
#[cfg(feature = "flash-attn")]
use candle_core::{Device, Error, Result, Tensor};

/// Widest head that is handed over: kernels of wider ones want more of that small memory than most GPUs have.
const WIDEST: usize = 256;

/// The compute capability that the kernels were compiled for, as CUDA_COMPUTE_CAP told nvcc.
#[cfg(feature = "flash-attn")]
const BUILT: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// Attention of tensors as `attention::attention` takes them; none where this device or these tensors want the plain way.
#[cfg(feature = "flash-attn")]
pub(super) fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let (rows, tokens, channels) = query.dims3()?;
    let head = channels / heads;
    let Device::Cuda(device) = query.device() else { return Ok(None) };
    let gpu = device.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
    if !takes(query.dtype(), head) || !runs(BUILT.unwrap_or_default(), gpu) {
        return Ok(None);
    }
    let split = |x: &Tensor| x.reshape((rows, x.dim(1)?, heads, head));
    let scale = (head as f32).powf(-0.5);
    let out = candle_flash_attn::flash_attn(&split(query)?, &split(key)?, &split(value)?, scale, false)?;
    Ok(Some(out.reshape((rows, tokens, channels))?))
}

/// Whether there is a kernel for heads `head` wide of numbers `dtype`.
fn takes(dtype: DType, head: usize) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) && head.is_multiple_of(8) && head <= WIDEST
}

/// Whether kernels compiled for `built` ("80") run on a GPU of compute capability `gpu`. They are machine code without PTX:
/// such code runs on later minor versions of its major one, and from 9.0 on, where it is compiled for that very GPU
/// (sm_90a), on no other.
fn runs(built: &str, gpu: (i32, i32)) -> bool {
    let Ok(built) = built.trim_end_matches(['a', 'f']).parse::<i32>() else { return false };
    let built = (built / 10, built % 10);
    match built.0 {
        8 => gpu.0 == 8 && gpu >= built,
        major => major > 8 && gpu == built,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_on_the_gpus_that_their_code_is_for() {
        let table = [
            ("80", (8, 0), true),
            ("80", (8, 9), true),
            ("86", (8, 9), true),
            ("89", (8, 6), false),
            ("80", (9, 0), false),
            ("90", (9, 0), true),
            ("90a", (9, 0), true),
            ("90", (10, 0), false),
            ("120", (12, 0), true),
            ("75", (7, 5), false),
            ("75", (8, 0), false),
            ("", (8, 0), false),
        ];
        for (built, gpu, wanted) in table {
            assert_eq!(runs(built, gpu), wanted, "{built} on {gpu:?}");
        }
    }

    #[test]
    fn half_precision_in_heads_of_whole_eights_is_taken() {
        for (dtype, head, wanted) in [
            (DType::F16, 64, true),
            (DType::BF16, 40, true),
            (DType::F32, 64, false),
            (DType::F16, 36, false),
            // the VAE's
            (DType::F16, 512, false),
        ] {
            assert_eq!(takes(dtype, head), wanted, "{dtype:?} {head}");
        }
    }
}
