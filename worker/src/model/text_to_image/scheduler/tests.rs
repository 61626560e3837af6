//! Every scheduler, step by step, against what diffusers does with the same numbers (bench/parity/schedulers.py).

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::model::fields::object;
use crate::model::golden;
use crate::model::text_to_image::noise::Noise;

/// How far a number may be from diffusers', as a part of the largest of its step.
const TOLERANCE: f32 = 1e-4;

#[derive(Debug, Deserialize)]
struct Case {
    class: String,
    config: Map<String, Value>,
    steps: usize,
    at: usize,
    /// Of timesteps and of noise levels.
    counts: (usize, usize),
    strength: Option<f64>,
}

fn base() -> Map<String, Value> {
    object(json!({
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    }))
}

fn scheduler(class: &str, more: Value) -> Result<Scheduler, SchedulerError> {
    let mut config = base();
    config.extend(object(more));
    Scheduler::read(config, Some(class), "StableDiffusionXLPipeline")
}

/// The values that a golden expects, one after another.
struct Known<'a>(&'a [f32]);

impl Known<'_> {
    fn check(&mut self, what: &str, found: &[f32], tolerance: f32) -> Result<(), String> {
        let (known, rest) = self.0.split_at(found.len());
        self.0 = rest;
        let largest = known.iter().fold(1e-3_f32, |largest, value| largest.max(value.abs()));
        for (found, known) in found.iter().zip(known) {
            let near = (found - known).abs() <= tolerance * largest;
            if !near {
                return Err(format!("{what}: {found} is not {known}"));
            }
        }
        Ok(())
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn run(case: &Case, known: &[f32]) -> Result<(), String> {
    let mut known = Known(known);
    let scheduler = scheduler(&case.class, Value::Object(case.config.clone())).map_err(|error| error.to_string())?;
    let mut sampler = scheduler.begin(case.steps).map_err(|error| error.to_string())?;
    if (sampler.timesteps().len(), sampler.sigmas().len()) != case.counts {
        return Err(format!("{:?} steps and levels", (sampler.timesteps().len(), sampler.sigmas().len())));
    }
    let timesteps: Vec<f32> = sampler.timesteps().iter().map(|timestep| *timestep as f32).collect();
    known.check("timesteps", &timesteps, 1e-6)?;
    for (index, sigma) in sampler.sigmas().to_vec().iter().enumerate() {
        known.check(&format!("sigma {index}"), &[*sigma], 1e-5)?;
    }
    known.check("init_noise_sigma", &[sampler.init_noise_sigma() as f32], 1e-5)?;

    let mut noise = Noise::new(3);
    let original: Vec<f32> = (0_u8..16).map(|i| f32::from(i) / 8.0 - 1.0).collect();
    let original = Tensor::from_vec(original, (1, 4, 2, 2), &Device::Cpu).unwrap();
    let drawn = noise.like(&original).unwrap();
    let mut latents = (&drawn * sampler.init_noise_sigma()).unwrap();
    if let Some(strength) = case.strength {
        sampler.begin_at(strength);
        latents = sampler.add_noise(&original, &drawn).unwrap();
    }
    while !sampler.is_done() {
        let input = sampler.scale_input(&latents).unwrap();
        let output = ((input * 0.6).unwrap() + (0.2 * sampler.timestep() / 1000.0 - 0.1)).unwrap();
        latents = sampler.step(&output, &latents, &mut noise).map_err(|error| error.to_string())?;
        let step = format!("after step {}", sampler.index());
        known.check(&step, &values(&latents)[..2], TOLERANCE)?;
        if case.strength.is_some() && !sampler.is_done() {
            let noisy = sampler.add_noise(&original, &drawn).unwrap();
            known.check(&format!("{step}, noise added"), &values(&noisy)[..2], TOLERANCE)?;
        }
    }
    known.check("at the end", &values(&latents), TOLERANCE)
}

#[test]
fn every_step_is_that_of_diffusers() {
    let cases: Vec<Case> = serde_json::from_str(&golden::text("schedulers.json")).unwrap();
    let all = values(&golden::tensors("schedulers.safetensors")["values"]);
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let error = run(case, &all[case.at..]).err()?;
            Some(format!("{} {} {} steps: {error}", case.class, json!(case.config), case.steps))
        })
        .collect();
    assert!(cases.len() > 900, "only {} goldens", cases.len());
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_setting_that_is_not_built_is_named() {
    let cases = [
        ("DDIMScheduler", json!({"thresholding": true}), "thresholding"),
        ("EulerDiscreteScheduler", json!({"use_beta_sigmas": true}), "use_beta_sigmas"),
        ("EulerDiscreteScheduler", json!({"interpolation_type": "log_linear"}), "interpolation_type"),
        ("EulerAncestralDiscreteScheduler", json!({"prediction_type": "sample"}), "prediction_type"),
        ("DPMSolverMultistepScheduler", json!({"algorithm_type": "dpmsolver"}), "algorithm_type"),
        ("DPMSolverMultistepScheduler", json!({"solver_order": 4}), "solver_order"),
        ("UniPCMultistepScheduler", json!({"lower_order_final": false}), "lower_order_final"),
        ("PNDMScheduler", json!({"skip_prk_steps": "yes"}), "skip_prk_steps"),
        ("LCMScheduler", json!({"timestep_spacing": "quadratic"}), "timestep_spacing"),
        ("LCMScheduler", json!({"num_train_timesteps": 0}), "num_train_timesteps"),
        ("LCMScheduler", json!({"original_inference_steps": 1001}), "original_inference_steps"),
        ("DDIMScheduler", json!({"trained_betas": [0.1, 0.2]}), "num_train_timesteps"),
        ("DDIMScheduler", json!({"beta_end": "much"}), "beta_end"),
    ];
    for (class, config, wanted) in cases {
        let error = scheduler(class, config).unwrap_err();
        assert!(
            matches!(error, SchedulerError::Setting { key, .. } if key == wanted),
            "{error} does not name {wanted}"
        );
        assert!(error.to_string().contains(wanted) && error.to_string().contains(class), "{error}");
    }
    assert_eq!(scheduler("DDIMScheduler", json!({"beta_end": 3.0})).unwrap_err(), SchedulerError::Betas);
    // what a class does not know does not concern it
    scheduler("EulerDiscreteScheduler", json!({"thresholding": true, "solver_order": 9})).unwrap();
}

#[test]
fn what_is_not_known_is_told_with_what_is() {
    let error = scheduler("HeunDiscreteScheduler", json!({})).unwrap_err().to_string();
    assert!(error.contains("HeunDiscreteScheduler") && error.contains("EulerDiscreteScheduler"), "{error}");
    let error = scheduler("DDIMScheduler", json!({})).unwrap().named("heun").unwrap_err().to_string();
    assert!(error.contains("\"heun\"") && error.contains("dpm++_2m_karras"), "{error}");
}

#[test]
fn steps_are_bounded_by_what_the_model_was_trained_on() {
    let most = |class: &str, config: Value, steps: usize| match scheduler(class, config).unwrap().begin(steps) {
        Ok(_) => None,
        Err(SchedulerError::Steps { most, .. }) => Some(most),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(most("LCMScheduler", json!({}), 50), None);
    assert_eq!(most("LCMScheduler", json!({}), 51), Some(50));
    assert_eq!(most("DDIMScheduler", json!({}), 1000), None);
    assert_eq!(most("DDIMScheduler", json!({"steps_offset": 1}), 1000), Some(999));
    assert_eq!(most("EulerDiscreteScheduler", json!({}), 1001), Some(1000));
    assert_eq!(most("EulerDiscreteScheduler", json!({}), 0), Some(1000));
    assert_eq!(most("PNDMScheduler", json!({}), 3), Some(1000));
    assert_eq!(most("PNDMScheduler", json!({"skip_prk_steps": true}), 3), None);
}

#[test]
fn a_job_takes_another_scheduler_over_the_models_settings() {
    let model =
        scheduler("EulerDiscreteScheduler", json!({"steps_offset": 1, "timestep_spacing": "trailing"})).unwrap();
    assert_eq!(model.begin(4).unwrap().timesteps(), [999.0, 749.0, 499.0, 249.0]);
    let named = model.named("DPM++ 2M Karras").unwrap();
    assert_eq!(named.name(), "DPMSolverMultistepScheduler, Karras sigmas");
    let (plain, karras) = (model.named("dpm++_2m").unwrap(), named.begin(4).unwrap());
    assert_ne!(plain.begin(4).unwrap().sigmas(), karras.sigmas());
    assert_eq!(plain.begin(4).unwrap().timesteps(), [999.0, 749.0, 499.0, 249.0]);
    // a setting that the model does not state is the named class' own: leading for DDIM, linspace for Euler
    let silent = scheduler("EulerDiscreteScheduler", json!({})).unwrap();
    assert_eq!(silent.begin(4).unwrap().timesteps()[..1], [999.0]);
    assert_eq!(silent.named("DDIMScheduler").unwrap().begin(4).unwrap().timesteps()[..1], [750.0]);
    // and back again, nothing of the way there is left
    assert_eq!(named.named("euler").unwrap().begin(4).unwrap().timesteps(), [999.0, 749.0, 499.0, 249.0]);
    // which for PNDM begins with three steps of four passes
    assert_eq!(model.named("pndm").unwrap().begin(4).unwrap().left(), 13);
}

#[test]
fn stable_diffusion_mends_old_configs_and_sdxl_does_not() {
    let old = json!({"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": true});
    let begin = |pipeline: &str, old: &Value| {
        let mut config = base();
        config.extend(object(old.clone()));
        Scheduler::read(config, None, pipeline).unwrap()
    };
    let (mended, kept) = (begin("StableDiffusionPipeline", &old), begin("StableDiffusionXLPipeline", &old));
    assert_eq!((mended.settings.steps_offset, mended.settings.clip), (1, None));
    assert_eq!((kept.settings.steps_offset, kept.settings.clip), (0, Some(1.0)));
    assert_eq!(mended.named("lcm").unwrap().settings.clip, None);
    // what a config does not state is mended for its own class only
    let silent = begin("StableDiffusionImg2ImgPipeline", &json!({"_class_name": "DDIMScheduler"}));
    assert_eq!((silent.settings.steps_offset, silent.settings.clip), (1, None));
    assert_eq!(silent.named("euler").unwrap().settings.steps_offset, 0);
}

#[test]
fn settings_at_their_ends_are_refused_or_taken_and_never_panic() {
    let ends = [
        json!({"num_train_timesteps": 1, "original_inference_steps": 1}),
        json!({"num_train_timesteps": 2, "original_inference_steps": 1, "use_karras_sigmas": true}),
        json!({"num_train_timesteps": 1, "original_inference_steps": 1, "rescale_betas_zero_snr": true}),
        json!({"steps_offset": 100_000}),
        json!({"lambda_min_clipped": 1e9, "timestep_spacing": "trailing"}),
        json!({"sigma_min": -1.0, "sigma_max": 1e300, "use_karras_sigmas": true}),
        json!({"clip_sample": true, "clip_sample_range": -1.0}),
        json!({"timestep_scaling": 0.0, "disable_corrector": [0, 0, 99]}),
    ];
    for kind in Kind::ALL {
        for end in &ends {
            for steps in [1, 2, 4, 61] {
                let sampler = scheduler(kind.class(), end.clone()).and_then(|scheduler| scheduler.begin(steps));
                let Ok(mut sampler) = sampler else { continue };
                let mut latents = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
                while !sampler.is_done() {
                    // an error is an answer too: two steps may have the same noise level
                    let Ok(next) = sampler.step(&latents, &latents, &mut Noise::new(1)) else { break };
                    latents = next;
                }
            }
        }
    }
}

#[test]
fn pythons_infinities_are_read() {
    let content = r#"{"a": -Infinity, "b": [NaN, 1, Infinity], "NaN": "-Infinity"}"#;
    assert_eq!(
        serde_json::from_str::<Value>(&without_python_numbers(content)).unwrap(),
        json!({"a": null, "b": [null, 1, null], "NaN": "-Infinity"})
    );
}

#[test]
fn a_strength_leaves_out_the_first_steps() {
    let left = |class: &str, strength: f64| {
        let mut sampler = scheduler(class, json!({"skip_prk_steps": true})).unwrap().begin(20).unwrap();
        sampler.begin_at(strength);
        sampler.left()
    };
    assert_eq!([1.0, 0.6, 0.05, 0.04, 0.0].map(|strength| left("DDIMScheduler", strength)), [20, 12, 1, 0, 0]);
    assert_eq!([1.0, 0.6, 0.05, 0.04].map(|strength| left("PNDMScheduler", strength)), [21, 13, 2, 0]);
}
