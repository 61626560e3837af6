//! Layers that models are made of.
//!
//! On GPUs, and in other numbers than f32, they are candle's own. In f32 on a CPU they are computed here: on all cores,
//! with as few passes over memory as it takes, and with weights that lie as the matrix products read them
//! (docs/decisions/0018-cpu-convolutions.md).

pub mod activation;
pub mod attention;
pub mod conv;
pub mod cores;
#[cfg(any(test, feature = "flash-attn"))]
mod flash;
pub mod linear;
mod math;
pub mod norm;
mod plain;
#[cfg(test)]
mod testing;
