//! A linear layer over a text's vector, after sentence-transformers' `Dense`.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde_json::{Value, json};

use super::layers::{Activation, Linear};
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported, within};

/// The stem of its weights.
const STEM: &str = "model";

/// One such layer.
#[derive(Debug)]
pub(super) struct Dense {
    linear: Linear,
    then: Then,
    outputs: usize,
}

/// What follows the linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Tanh,
    Activation(Activation),
}

/// torch's classes, by the ends of their names.
const KNOWN: [(&str, Then); 5] = [
    ("Identity", Then::Nothing),
    ("Tanh", Then::Tanh),
    ("ReLU", Then::Activation(Activation::Relu)),
    ("GELU", Then::Activation(Activation::Gelu)),
    ("SiLU", Then::Activation(Activation::Silu)),
];

#[derive(Debug, Deserialize)]
struct Config {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default = "tanh")]
    activation_function: String,
}

fn yes() -> bool {
    true
}

fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".into()
}

impl Dense {
    /// Loads the layer in `component`, which reads vectors of `width` numbers. It computes in f32 on the CPU: a vector is a
    /// text's only row.
    pub(super) fn load(folder: &Folder, component: &str, width: usize) -> Result<Self, LoadError> {
        let file = within(component, "config.json");
        let whole = [json!("sentence_embedding"), Value::Null];
        let off = [json!(false), Value::Null];
        let fixed: [(&str, &[Value]); 3] =
            [("module_input_name", &whole), ("module_output_name", &whole), ("use_residual", &off)];
        let config: Config = folder.config(&file, &fixed)?;
        if config.in_features != width {
            let what = format!("in_features is {} where vectors have {width} numbers", config.in_features);
            return Err(corrupt(&file, &what));
        }
        let class = config.activation_function.rsplit('.').next().unwrap_or_default();
        let then = KNOWN.iter().find(|(name, _)| *name == class).map(|(_, then)| *then).ok_or_else(|| {
            let known = KNOWN.map(|(name, _)| name).join(", ");
            unsupported(&file, &format!("activation_function {class} is not supported; {known} are"))
        })?;
        let build = |vb: VarBuilder| Linear::new(&vb.pp("linear"), width, config.out_features, config.bias);
        let linear = folder.weights(component, STEM)?.build(DType::F32, &Device::Cpu, build)?;
        Ok(Self { linear, then, outputs: config.out_features })
    }

    /// Numbers of a vector that it gives.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// (texts, in) to (texts, out).
    pub(super) fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let x = self.linear.forward(x)?;
        match self.then {
            Then::Nothing => Ok(x),
            Then::Tanh => x.tanh(),
            Then::Activation(activation) => activation.forward(&x),
        }
    }
}
