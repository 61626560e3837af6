//! What models hear: how loud audio is in bands of frequencies, a hundred times a second.
//!
//! As Whisper's authors compute it (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", 2.2) and
//! transformers' WhisperFeatureExtractor does: powers of Fourier transforms over windows of 25 ms, every 10 ms, summed up in
//! triangular bands on Slaney's mel scale, as logarithms within 8 decades of the loudest.

use std::sync::Arc;

use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::audio::RATE;

/// Samples of a window.
const WINDOW: usize = 400;
/// Samples from one window to the next.
pub(super) const HOP: usize = RATE / 100;
/// Frames that a core works on at a time.
const AT_ONCE: usize = 256;
/// Where the scale bends from linear to logarithmic: 1000 Hz are 15 mel.
const BEND_HERTZ: f64 = 1000.0;
const BEND_MEL: f64 = 15.0;
/// Above it, mel in which frequencies become 6.4 times as high.
const STEP: f64 = 27.0;

/// Makes features of samples.
pub(super) struct Mel {
    bands: Vec<Band>,
    window: Vec<f32>,
    transform: Arc<dyn RealToComplex<f32>>,
}

/// Powers from `first` on count so much.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// (frames, bands), 100 frames a second.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Features {
    pub(super) bands: usize,
    pub(super) values: Vec<f32>,
    /// Frames that there is audio in; the rest is silence that was put behind it.
    pub(super) content: usize,
}

impl std::fmt::Debug for Mel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mel({})", self.bands.len())
    }
}

impl Mel {
    pub(super) fn new(bands: usize) -> Self {
        let turn = |n: usize| std::f64::consts::TAU * n as f64 / WINDOW as f64;
        Self {
            bands: make_bands(bands),
            window: (0..WINDOW).map(|n| (0.5 - 0.5 * turn(n).cos()) as f32).collect(),
            transform: RealFftPlanner::new().plan_fft_forward(WINDOW),
        }
    }

    /// The features of samples. What is shorter than `least` frames is followed by silence; what is longer ends with its last
    /// whole frame.
    pub(super) fn features(&self, mut samples: Vec<f32>, least: usize) -> Features {
        let content = samples.len().div_ceil(HOP).max(1);
        if samples.len() < least * HOP {
            samples.resize(least * HOP, 0.0);
        }
        let frames = samples.len() / HOP;
        let bands = self.bands.len();
        let mut values = vec![0.0_f32; frames * bands];
        values.par_chunks_mut(AT_ONCE * bands).enumerate().for_each(|(part, values)| {
            let mut buffers = Buffers {
                part: vec![0.0; WINDOW],
                spectrum: self.transform.make_output_vec(),
                scratch: self.transform.make_scratch_vec(),
            };
            for (frame, values) in values.chunks_exact_mut(bands).enumerate() {
                self.frame(&samples, part * AT_ONCE + frame, &mut buffers, values);
            }
        });
        let loudest = values.par_iter().copied().reduce(|| f32::NEG_INFINITY, f32::max);
        values.par_iter_mut().for_each(|value| *value = (value.max(loudest - 8.0) + 4.0) / 4.0);
        Features { bands, values, content: content.min(frames) }
    }

    /// The logarithms of one frame.
    fn frame(&self, samples: &[f32], frame: usize, buffers: &mut Buffers, values: &mut [f32]) {
        for (n, (to, window)) in buffers.part.iter_mut().zip(&self.window).enumerate() {
            *to = samples[centred(frame * HOP + n, samples.len())] * window;
        }
        // the lengths are those that it was planned with
        let Buffers { part, spectrum, scratch } = buffers;
        if self.transform.process_with_scratch(part, spectrum, scratch).is_err() {
            return;
        }
        for (value, band) in values.iter_mut().zip(&self.bands) {
            let powers = spectrum.iter().skip(band.first).map(Complex::norm_sqr);
            let sum: f32 = powers.zip(&band.weights).map(|(power, weight)| power * weight).sum();
            *value = sum.max(1e-10).log10();
        }
    }
}

struct Buffers {
    part: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

/// Where the sample is that stands at a place of a window which is centred on its frame. Before the first sample and behind the
/// last one, audio is its own mirror.
fn centred(place: usize, length: usize) -> usize {
    let (half, last) = (WINDOW / 2, length.saturating_sub(1));
    let at = place.abs_diff(half);
    if at > last { (2 * last).saturating_sub(at) } else { at }
}

fn mel(hertz: f64) -> f64 {
    let linear = hertz * BEND_MEL / BEND_HERTZ;
    if hertz < BEND_HERTZ { linear } else { BEND_MEL + (hertz / BEND_HERTZ).ln() * STEP / 6.4_f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < BEND_MEL {
        mel * BEND_HERTZ / BEND_MEL
    } else {
        BEND_HERTZ * ((mel - BEND_MEL) * 6.4_f64.ln() / STEP).exp()
    }
}

/// Triangles between neighbours of neighbours, evenly spread in mel; each has the same area.
fn make_bands(count: usize) -> Vec<Band> {
    let highest = mel(RATE as f64 / 2.0);
    let corner = |n: usize| hertz(highest * n as f64 / (count + 1) as f64);
    let frequency = |bin: usize| bin as f64 * RATE as f64 / WINDOW as f64;
    let one = |n: usize| {
        let (low, middle, high) = (corner(n), corner(n + 1), corner(n + 2));
        let weight = |bin: usize| {
            let (up, down) = ((frequency(bin) - low) / (middle - low), (high - frequency(bin)) / (high - middle));
            up.min(down).max(0.0) * 2.0 / (high - low)
        };
        let bins = 0..=WINDOW / 2;
        let first = bins.clone().find(|bin| weight(*bin) > 0.0).unwrap_or(0);
        let weights = bins.skip(first).map(|bin| weight(bin) as f32).take_while(|weight| *weight > 0.0).collect();
        Band { first, weights }
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_loudest_in_its_band() {
        let mel = Mel::new(80);
        for hertz in [200.0, 1000.0, 5000.0] {
            let turn = |n: usize| (hertz * std::f64::consts::TAU * n as f64 / RATE as f64).sin() as f32;
            let features = mel.features((0..RATE).map(turn).collect(), 10);
            assert_eq!((features.values.len(), features.content), (100 * 80, 100));
            let frame = &features.values[50 * 80..51 * 80];
            let loudest = (0..80).max_by(|a, b| frame[*a].total_cmp(&frame[*b])).unwrap();
            let of = |n: usize| super::hertz(super::mel(8000.0) * n as f64 / 81.0);
            assert!((of(loudest)..=of(loudest + 2)).contains(&hertz), "{hertz}: band {loudest}");
        }
    }

    #[test]
    fn silence_fills_up_and_is_not_content() {
        let mel = Mel::new(80);
        let features = mel.features(vec![0.5; 1700], 300);
        assert_eq!((features.values.len(), features.content), (300 * 80, 11));
        // a second and a half frame: the half is none
        assert_eq!(mel.features(vec![0.5; 16_080], 30).values.len(), 100 * 80);
        assert!(mel.features(Vec::new(), 1).values.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn ends_are_mirrors() {
        let found: Vec<usize> = (197..208).map(|place| centred(place, 5)).collect();
        assert_eq!(found, [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]);
        assert_eq!(centred(400, 2), 0);
    }
}
