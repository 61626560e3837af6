//! Which schedulers there are, and what they are called.

/// One of diffusers' schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Euler's method along the probability flow.
    Euler,
    /// Euler's method with fresh noise at every step.
    EulerAncestral,
    /// DDIM without noise of its own.
    Ddim,
    /// DPM-Solver++, with up to two earlier steps ("2M").
    Dpm,
    /// Latent consistency models.
    Lcm,
    /// UniPC, which corrects each step by the next guess.
    UniPc,
    /// Pseudo linear multistep, as Stable Diffusion 1.5 is published with.
    Pndm,
}

/// What a short name asks for beside the kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Noise levels as Karras et al. space them.
    pub(super) karras: bool,
    /// The stochastic variant.
    pub(super) stochastic: bool,
}

impl Kind {
    pub(super) const ALL: [Self; 7] =
        [Self::Euler, Self::EulerAncestral, Self::Ddim, Self::Dpm, Self::Lcm, Self::UniPc, Self::Pndm];

    /// Its class in diffusers.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Ddim => "DDIMScheduler",
            Self::Dpm => "DPMSolverMultistepScheduler",
            Self::Lcm => "LCMScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Pndm => "PNDMScheduler",
        }
    }

    pub(super) fn of_class(class: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.class() == class)
    }

    /// Its short names, written as `plain` writes them; the first is the one that messages give.
    fn short(self) -> &'static [&'static str] {
        match self {
            Self::Euler => &["euler"],
            Self::EulerAncestral => &["euler_a", "euler_ancestral"],
            Self::Ddim => &["ddim"],
            Self::Dpm => &["dpm++_2m", "dpmpp_2m", "dpm_solver++"],
            Self::Lcm => &["lcm"],
            Self::UniPc => &["unipc", "uni_pc"],
            Self::Pndm => &["pndm", "plms"],
        }
    }

    /// What a job calls it: a class of diffusers or a short name, of which some say more (`dpm++_2m_karras`). Short names
    /// may be written with any case, spaces and hyphens.
    pub(super) fn named(name: &str) -> Option<(Self, Wish)> {
        if let Some(kind) = Self::of_class(name) {
            return Some((kind, Wish::default()));
        }
        let plain = name.trim().to_lowercase().replace([' ', '-'], "_");
        let (rest, karras) = plain.strip_suffix("_karras").map_or((plain.as_str(), false), |rest| (rest, true));
        let (rest, stochastic) = rest.strip_suffix("_sde").map_or((rest, false), |rest| (rest, true));
        let kind = Self::ALL.into_iter().find(|kind| kind.short().contains(&rest))?;
        let known = (!karras || kind.knows_karras()) && (!stochastic || kind == Self::Dpm);
        known.then_some((kind, Wish { karras, stochastic }))
    }

    /// All names that `named` knows best, for a message.
    pub(super) fn list() -> String {
        let mut names: Vec<String> =
            Self::ALL.iter().map(|kind| format!("{} ({})", kind.short()[0], kind.class())).collect();
        names.push("euler_karras, unipc_karras, dpm++_2m_karras, dpm++_2m_sde and dpm++_2m_sde_karras".into());
        names.join(", ")
    }

    /// Whether its noise levels can be spaced as Karras et al. do.
    pub(super) fn knows_karras(self) -> bool {
        matches!(self, Self::Euler | Self::Dpm | Self::UniPc)
    }

    /// Whether it works with noise levels; the others work with the kept part of the picture at a timestep.
    pub(super) fn has_sigmas(self) -> bool {
        matches!(self, Self::Euler | Self::EulerAncestral | Self::Dpm | Self::UniPc)
    }

    /// Whether its latents are a picture under noise of any level, rather than scaled to variance 1.
    pub(super) fn is_unscaled(self) -> bool {
        matches!(self, Self::Euler | Self::EulerAncestral)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_may_use_the_usual_names() {
        let plain = Wish::default();
        let karras = Wish { karras: true, ..plain };
        let cases = [
            ("EulerDiscreteScheduler", Some((Kind::Euler, plain))),
            ("euler", Some((Kind::Euler, plain))),
            ("Euler a", Some((Kind::EulerAncestral, plain))),
            ("DPM++ 2M", Some((Kind::Dpm, plain))),
            ("DPM++ 2M Karras", Some((Kind::Dpm, karras))),
            ("dpmpp_2m_sde_karras", Some((Kind::Dpm, Wish { karras: true, stochastic: true }))),
            ("unipc-karras", Some((Kind::UniPc, karras))),
            ("ddim_karras", None),
            ("lcm_sde", None),
            ("HeunDiscreteScheduler", None),
            ("", None),
        ];
        for (name, known) in cases {
            assert_eq!(Kind::named(name), known, "{name}");
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.class()), Some((kind, plain)));
            assert!(Kind::list().contains(kind.class()));
        }
    }
}
