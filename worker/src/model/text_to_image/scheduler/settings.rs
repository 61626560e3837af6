//! scheduler_config.json as one class reads it: that class' own defaults, and what is not built here refused by name.

use serde_json::{Map, Value};

use super::error::SchedulerError;
use super::kind::Kind;

/// Most training timesteps of a model; every published one has 1000.
const MOST_TIMESTEPS: u64 = 100_000;

/// How strong the noise of each training step was.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Betas {
    Linear { start: f64, end: f64 },
    ScaledLinear { start: f64, end: f64 },
    SquaredCosine,
    Trained(Vec<f32>),
}

/// What the UNet's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    Epsilon,
    Velocity,
    Sample,
}

/// Which training timesteps are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// How a second-order step is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Solver {
    Midpoint,
    Heun,
    /// B(h) = h
    Bh1,
    /// B(h) = e^h − 1
    Bh2,
}

/// All settings of a scheduler. Those that its class does not know have the value that changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) kind: Kind,
    /// Number of training timesteps.
    pub(super) train: usize,
    pub(super) betas: Betas,
    pub(super) zero_snr: bool,
    pub(super) prediction: Prediction,
    pub(super) spacing: Spacing,
    pub(super) steps_offset: usize,
    pub(super) karras: bool,
    /// Ends of Karras' noise levels, where they are not the training's.
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    /// Whether the last step stops at the smallest noise level of the training, rather than at none.
    pub(super) ends_at_sigma_min: bool,
    /// The predicted picture is kept within plus and minus this.
    pub(super) clip: Option<f64>,
    /// Whether the step after the last is without noise, rather than at the first training timestep.
    pub(super) alpha_one: bool,
    pub(super) order: usize,
    pub(super) solver: Solver,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
    pub(super) stochastic: bool,
    /// Smallest half log signal-to-noise ratio that is visited.
    pub(super) lambda_min: f32,
    pub(super) original_steps: usize,
    pub(super) timestep_scaling: f64,
    /// Whether PNDM begins with three Runge-Kutta steps, of four passes each.
    pub(super) runge_kutta: bool,
    /// Steps after which UniPC does not correct.
    pub(super) disable_corrector: Vec<usize>,
}

impl Settings {
    /// diffusers' class, and what is asked of it that it does not do by itself.
    pub(super) fn name(&self) -> String {
        let stochastic = if self.stochastic { ", SDE" } else { "" };
        let karras = if self.karras { ", Karras sigmas" } else { "" };
        format!("{}{stochastic}{karras}", self.kind.class())
    }

    pub(super) fn read(kind: Kind, raw: &Map<String, Value>) -> Result<Self, SchedulerError> {
        let reader = Reader { raw, kind };
        reader.refuse_what_is_not_built()?;
        let lcm = kind == Kind::Lcm;
        let sigmas = kind.knows_karras();
        let multistep = matches!(kind, Kind::Dpm | Kind::UniPc);
        let own_spacing =
            if matches!(kind, Kind::Ddim | Kind::Lcm | Kind::Pndm) { Spacing::Leading } else { Spacing::Linspace };
        let prediction = reader.word(
            "prediction_type",
            Prediction::Epsilon,
            &[("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::Velocity), ("sample", Prediction::Sample)],
        )?;
        if prediction == Prediction::Sample && matches!(kind, Kind::EulerAncestral | Kind::Pndm) {
            return Err(reader.unsupported("prediction_type", "epsilon or v_prediction"));
        }
        let clips = matches!(kind, Kind::Ddim | Kind::Lcm) && reader.flag("clip_sample", kind == Kind::Ddim)?;
        let solvers: &[(&str, Solver)] = match kind {
            Kind::UniPc => &[
                ("bh1", Solver::Bh1),
                ("bh2", Solver::Bh2),
                ("midpoint", Solver::Bh2),
                ("heun", Solver::Bh2),
                ("logrho", Solver::Bh2),
            ],
            _ => &[
                ("midpoint", Solver::Midpoint),
                ("heun", Solver::Heun),
                ("logrho", Solver::Midpoint),
                ("bh1", Solver::Midpoint),
                ("bh2", Solver::Midpoint),
            ],
        };
        let own_solver = if kind == Kind::UniPc { Solver::Bh2 } else { Solver::Midpoint };
        let settings = Self {
            kind,
            train: reader.whole("num_train_timesteps", 1000, 1..=MOST_TIMESTEPS)?,
            betas: reader.betas(lcm)?,
            zero_snr: kind != Kind::Pndm && reader.flag("rescale_betas_zero_snr", false)?,
            prediction,
            spacing: reader.word(
                "timestep_spacing",
                own_spacing,
                &[("linspace", Spacing::Linspace), ("leading", Spacing::Leading), ("trailing", Spacing::Trailing)],
            )?,
            steps_offset: reader.whole("steps_offset", 0, 0..=MOST_TIMESTEPS)?,
            karras: sigmas && reader.flag("use_karras_sigmas", false)?,
            sigma_min: reader.number("sigma_min")?,
            sigma_max: reader.number("sigma_max")?,
            ends_at_sigma_min: sigmas
                && reader.word("final_sigmas_type", false, &[("zero", false), ("sigma_min", true)])?,
            clip: if clips { Some(reader.number("clip_sample_range")?.unwrap_or(1.0)) } else { None },
            alpha_one: reader.flag("set_alpha_to_one", kind != Kind::Pndm)?,
            order: if multistep { reader.whole("solver_order", 2, 1..=3)? } else { 1 },
            solver: if multistep { reader.word("solver_type", own_solver, solvers)? } else { own_solver },
            lower_order_final: reader.flag("lower_order_final", true)?,
            euler_at_final: reader.flag("euler_at_final", false)?,
            stochastic: kind == Kind::Dpm
                && reader.word(
                    "algorithm_type",
                    false,
                    &[("dpmsolver++", false), ("deis", false), ("sde-dpmsolver++", true)],
                )?,
            lambda_min: reader.number("lambda_min_clipped")?.map_or(f32::NEG_INFINITY, |number| number as f32),
            original_steps: reader.whole("original_inference_steps", 50, 1..=MOST_TIMESTEPS)?,
            timestep_scaling: reader.number("timestep_scaling")?.unwrap_or(10.0),
            runge_kutta: kind == Kind::Pndm && !reader.flag("skip_prk_steps", false)?,
            disable_corrector: reader.wholes("disable_corrector")?,
        };
        if lcm && settings.original_steps > settings.train {
            return Err(reader.unsupported("original_inference_steps", "at most num_train_timesteps"));
        }
        if kind == Kind::UniPc && settings.order > 1 && !settings.lower_order_final && !settings.ends_at_sigma_min {
            // the last step would divide by an infinite one
            return Err(reader.unsupported("lower_order_final", "true, where final_sigmas_type is zero"));
        }
        Ok(settings)
    }
}

/// Looks values up; absent and null are both the default.
struct Reader<'a> {
    raw: &'a Map<String, Value>,
    kind: Kind,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    fn unsupported(&self, key: &'static str, supported: impl Into<String>) -> SchedulerError {
        let value = self.raw.get(key).unwrap_or(&Value::Null).to_string();
        SchedulerError::Setting { key, value, class: self.kind.class(), supported: supported.into() }
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, SchedulerError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.unsupported(key, "true or false")),
        }
    }

    fn number(&self, key: &'static str) -> Result<Option<f64>, SchedulerError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.unsupported(key, "a number")),
        }
    }

    fn whole(
        &self,
        key: &'static str,
        default: usize,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<usize, SchedulerError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let whole = value.as_u64().filter(|whole| range.contains(whole));
        let supported = || self.unsupported(key, format!("a whole number from {} to {}", range.start(), range.end()));
        whole.map(|whole| whole as usize).ok_or_else(supported)
    }

    fn wholes(&self, key: &'static str) -> Result<Vec<usize>, SchedulerError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let wholes = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        let wholes = wholes.ok_or_else(|| self.unsupported(key, "a list of steps"))?;
        Ok(wholes.into_iter().map(|whole| whole as usize).collect())
    }

    fn word<T: Copy>(&self, key: &'static str, default: T, known: &[(&str, T)]) -> Result<T, SchedulerError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let found = known.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, meaning)| *meaning);
        let supported = || self.unsupported(key, known.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or "));
        found.ok_or_else(supported)
    }

    fn betas(&self, lcm: bool) -> Result<Betas, SchedulerError> {
        if let Some(trained) = self.get("trained_betas") {
            let betas = trained.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
            let betas = betas.filter(|betas| !betas.is_empty() && betas.len() as u64 <= MOST_TIMESTEPS);
            let betas = betas.ok_or_else(|| self.unsupported("trained_betas", "a list of numbers"))?;
            let train = self.whole("num_train_timesteps", 1000, 1..=MOST_TIMESTEPS)?;
            if betas.len() != train {
                return Err(
                    self.unsupported("num_train_timesteps", format!("as many as trained_betas: {}", betas.len()))
                );
            }
            return Ok(Betas::Trained(betas.into_iter().map(|beta| beta as f32).collect()));
        }
        // a model of LCM says its betas only where they are not Stable Diffusion's
        let (start, end) = if lcm { (0.00085, 0.012) } else { (0.0001, 0.02) };
        let start = self.number("beta_start")?.unwrap_or(start);
        let end = self.number("beta_end")?.unwrap_or(end);
        let (linear, scaled) = (0, 1);
        let which = self.word(
            "beta_schedule",
            if lcm { scaled } else { linear },
            &[("linear", linear), ("scaled_linear", scaled), ("squaredcos_cap_v2", 2)],
        )?;
        Ok(match which {
            0 => Betas::Linear { start, end },
            1 => Betas::ScaledLinear { start, end },
            _ => Betas::SquaredCosine,
        })
    }

    /// Settings with other values change the computation in ways that are not here.
    fn refuse_what_is_not_built(&self) -> Result<(), SchedulerError> {
        use Kind::{Ddim, Dpm, Euler, Lcm, UniPc};
        let sigmas: &[Kind] = &[Euler, Dpm, UniPc];
        let off = Value::Bool(false);
        let rules: [(&'static str, &[Kind], Value); 11] = [
            ("thresholding", &[Ddim, Dpm, Lcm, UniPc], off.clone()),
            ("use_exponential_sigmas", sigmas, off.clone()),
            ("use_beta_sigmas", sigmas, off.clone()),
            ("use_flow_sigmas", &[Dpm, UniPc], off.clone()),
            ("use_dynamic_shifting", &[Dpm, UniPc], off.clone()),
            ("use_lu_lambdas", &[Dpm], off),
            ("interpolation_type", &[Euler], "linear".into()),
            ("timestep_type", &[Euler], "discrete".into()),
            ("variance_type", &[Dpm], Value::Null),
            ("solver_p", &[UniPc], Value::Null),
            ("predict_x0", &[UniPc], Value::Bool(true)),
        ];
        for (key, kinds, supported) in rules {
            if kinds.contains(&self.kind) && self.get(key).is_some_and(|value| *value != supported) {
                return Err(self.unsupported(key, supported.to_string()));
            }
        }
        Ok(())
    }
}
