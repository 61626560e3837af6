"""What diffusers' schedulers do, step by step, with a stated model in place of a UNet, for every combination of settings.

Each case starts from N = 16 numbers, drawn from torch.Generator("cpu").manual_seed(3), shaped (1, 4, 2, 2) and times
init_noise_sigma; with a strength they are added to ORIGINAL at the first step instead. The model's output is
0.6 * scaled input + 0.2 * timestep / 1000 - 0.1. Noise of a step comes from the same generator.

schedulers.json lists the cases: class, config (what differs from BASE), steps, strength, and at (where its numbers begin in schedulers.safetensors,
tensor "values", f32), counts (timesteps, sigmas). The numbers of a case: timesteps, sigmas (none where the class has none),
init_noise_sigma, then for each step the first two latents after it (and with a strength the first two of ORIGINAL with
noise added as for the next step, where there is one), then all 16 at the end.
"""
import itertools
import json

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file

BASE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler",
           "LCMScheduler", "UniPCMultistepScheduler", "PNDMScheduler"]
KARRAS = {"EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"}
SHAPE = (1, 4, 2, 2)
ORIGINAL = torch.arange(16, dtype=torch.float32).reshape(SHAPE) / 8 - 1


def grid():
    """(class, config, steps, strength) of all combinations, fewer where they say nothing new."""
    spacings, predictions = ["linspace", "leading", "trailing"], ["epsilon", "v_prediction", "sample"]
    for kind in CLASSES:
        karras = [False, True] if kind in KARRAS else [False]
        zero = [False, True] if kind != "PNDMScheduler" else [False]
        for spacing, offset, prediction, curved, snr in itertools.product(spacings, [0, 1], predictions, karras, zero):
            config = BASE | {"timestep_spacing": spacing, "steps_offset": offset, "prediction_type": prediction}
            config |= {"use_karras_sigmas": True} if curved else {}
            config |= {"rescale_betas_zero_snr": True} if snr else {}
            config |= {"clip_sample": False} if kind == "DDIMScheduler" else {}
            config |= {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
            yield kind, config, 4, None
            if offset == 1:
                yield kind, config, 20, None
                if prediction == ("v_prediction" if snr else "epsilon"):
                    for steps in (1, 2, 3, 50):
                        yield kind, config, steps, None
        for steps, strength in ((20, 0.6), (4, 0.5), (4, 1.0), (7, 0.3)):
            yield kind, BASE | {"steps_offset": 1, "skip_prk_steps": True}, steps, strength


def special():
    """Settings of single classes."""
    betas = [{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, {"beta_schedule": "squaredcos_cap_v2"},
             {"trained_betas": [float(b) for b in np.round(np.linspace(0.001, 0.02, 100), 6)], "num_train_timesteps": 100},
             {"num_train_timesteps": 500}]
    for kind, beta, steps in itertools.product(CLASSES, betas, (5, 20)):
        yield kind, BASE | beta | {"skip_prk_steps": True, "original_inference_steps": 50}, steps, None
    for kind in sorted(KARRAS):
        for last, spacing, curved in itertools.product(("zero", "sigma_min"), ("linspace", "trailing"), (False, True)):
            yield kind, BASE | {"final_sigmas_type": last, "timestep_spacing": spacing, "use_karras_sigmas": curved}, 6, None
        yield kind, BASE | {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}, 6, None
    for bounds in ({"sigma_min": 0.1, "sigma_max": 10.0},):
        for kind in ("EulerDiscreteScheduler", "UniPCMultistepScheduler"):
            yield kind, BASE | bounds | {"use_karras_sigmas": True}, 6, None
    for order, solver, lower, euler, last, steps in itertools.product(
            (1, 2, 3), ("midpoint", "heun"), (True, False), (True, False), ("zero", "sigma_min"), (8, 16)):
        yield "DPMSolverMultistepScheduler", BASE | {
            "solver_order": order, "solver_type": solver, "lower_order_final": lower, "euler_at_final": euler,
            "final_sigmas_type": last}, steps, None
    for solver, prediction, curved in itertools.product(("midpoint", "heun"), ("epsilon", "v_prediction"), (False, True)):
        yield "DPMSolverMultistepScheduler", BASE | {
            "algorithm_type": "sde-dpmsolver++", "solver_type": solver, "prediction_type": prediction,
            "use_karras_sigmas": curved}, 8, None
    yield "DPMSolverMultistepScheduler", BASE | {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}, 8, None
    for order, solver, lower, last in itertools.product((1, 2, 3), ("bh1", "bh2"), (True, False), ("zero", "sigma_min")):
        yield "UniPCMultistepScheduler", BASE | {
            "solver_order": order, "solver_type": solver, "lower_order_final": lower, "final_sigmas_type": last}, 9, None
    yield "UniPCMultistepScheduler", BASE | {"disable_corrector": [0, 2]}, 8, None
    for one, spacing in itertools.product((True, False), ("leading", "trailing")):
        for kind in ("DDIMScheduler", "LCMScheduler", "PNDMScheduler"):
            yield kind, BASE | {"set_alpha_to_one": one, "timestep_spacing": spacing, "clip_sample": False,
                                "skip_prk_steps": True}, 5, None
    for prediction, reach in itertools.product(("epsilon", "v_prediction", "sample"), (1.0, 0.5)):
        for kind in ("DDIMScheduler", "LCMScheduler"):
            yield kind, BASE | {"clip_sample": True, "clip_sample_range": reach, "prediction_type": prediction}, 4, None
    for prediction, spacing, steps in itertools.product(("epsilon", "v_prediction"), ("linspace", "leading", "trailing"), (4, 5, 20)):
        yield "PNDMScheduler", BASE | {"prediction_type": prediction, "timestep_spacing": spacing}, steps, None
    yield "PNDMScheduler", BASE, 10, 0.5
    for kind in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        # numpy's arange has one number more than asked for
        yield kind, BASE | {"timestep_spacing": "trailing"}, 61, None
    yield "LCMScheduler", BASE | {"original_inference_steps": 100, "timestep_scaling": 5.0}, 8, None


def sequence(kind, config, steps, strength):
    """The numbers of a case."""
    scheduler = getattr(diffusers, kind).from_config(config)
    generator = torch.Generator("cpu").manual_seed(3)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    sigmas = scheduler.sigmas if hasattr(scheduler, "sigmas") else torch.zeros(0)
    initial = torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32).reshape(1)
    out = [timesteps.float(), sigmas.float(), initial]
    noise = torch.randn(SHAPE, generator=generator)
    latents = noise * initial
    if strength is not None:
        start = max(steps - min(int(steps * strength), steps), 0)
        timesteps = timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        latents = scheduler.add_noise(ORIGINAL, noise, timesteps[:1])
    random = {"generator": generator} if kind in ("EulerAncestralDiscreteScheduler", "LCMScheduler") else {}
    if config.get("algorithm_type", "").startswith("sde"):
        random = {"generator": generator}
    for i, timestep in enumerate(timesteps):
        output = 0.6 * scheduler.scale_model_input(latents, timestep) + 0.2 * float(timestep) / 1000 - 0.1
        latents = scheduler.step(output, timestep, latents, **random, return_dict=False)[0]
        out.append(latents.flatten()[:2])
        if strength is not None and i + 1 < len(timesteps):
            out.append(scheduler.add_noise(ORIGINAL, noise, timesteps[i + 1 : i + 2]).flatten()[:2])
    out.append(latents.flatten())
    return torch.cat(out).numpy(), [len(scheduler.timesteps), len(sigmas)]


def make(goldens):
    """Writes schedulers.json and schedulers.safetensors."""
    lines, numbers, at, left_out = [], [], 0, []
    for kind, config, steps, strength in [*grid(), *special()]:
        case = {"class": kind, "config": config, "steps": steps}
        try:
            values, counts = sequence(kind, config, steps, strength)
        except (ValueError, NotImplementedError, IndexError, AssertionError, RuntimeError) as error:
            left_out.append(f"{json.dumps(case)}: {error}")  # diffusers refuses it, or fails
            continue
        if not np.isfinite(values).all():
            left_out.append(f"{json.dumps(case)}: not finite")
            continue
        case["config"] = {key: value for key, value in config.items() if BASE.get(key) != value}
        case |= {"at": at, "counts": counts} | ({} if strength is None else {"strength": strength})
        lines.append(" " + json.dumps(case, separators=(",", ":")))
        numbers.append(values.astype(np.float32))
        at += len(values)
    save_file({"values": np.concatenate(numbers)}, goldens / "schedulers.safetensors")
    (goldens / "schedulers.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"schedulers: {len(lines)} cases, {len(left_out)} that diffusers cannot do")
    return left_out


if __name__ == "__main__":
    import pathlib

    print("\n".join(make(pathlib.Path(__file__).parent / "goldens")))
