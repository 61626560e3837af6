"""Makes the goldens anew: tiny models, and what diffusers computes with them. README.md says what is what.

    $(./install) generate.py [components] [pictures] [lora] [schedulers] [noise]    # all of these when none is named
    $(./install embeddings) generate.py embeddings [minilm=$(./minilm)]             # what sentence-transformers computes
    $(./install generation) generate.py generation                                  # what transformers writes
    $(./install speech) generate.py speech                                          # and what it hears
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other

import numpy as np
import torch
from safetensors.numpy import save_file

import embeddings
import generation
import lora
import models
import noise
import pictures
import schedulers
import speech
from weights import scale, values

GOLDENS = pathlib.Path(__file__).parent / "goldens"
SEEDS = {"sdxl": [1, 2, 3], "turbo": [1, 2, 3], "sd15": [1, 2, 3, 4], "sd21": [1, 2, 3], "inpaint": [1], "refiner": [1], "xlinpaint": [1]}
PICTURES_ONLY = ("refiner", "xlinpaint")  # their parts are those of the others
PROMPTS = ["a photo of an astronaut riding a horse on mars!", "Blurry café 123, don't  (red:1.2)\n🙂"]


def given(name, shape):
    """An input of a component, of values as in weights.py."""
    return torch.from_numpy(values(0, "given", name, shape) / np.float32(scale(name, shape)))


def component_goldens(folder):
    """{name: array}: inputs and outputs of every part of the model in this folder."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    out = {}
    encoders = [(n, t) for n, t in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")) if hasattr(pipe, n)]
    xl = len(encoders) == 2
    context, pooled = [], None
    for encoder, tokenizer in encoders:
        tokens = getattr(pipe, tokenizer)(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        made = getattr(pipe, encoder)(tokens.input_ids, output_hidden_states=xl)
        hidden = made.hidden_states[-2] if xl else made[0]
        out[f"{encoder}.tokens"], out[f"{encoder}.hidden"] = tokens.input_ids.to(torch.int64), hidden
        context.append(hidden)
        if encoder == "text_encoder_2":
            pooled = out["text_encoder_2.pooled"] = made.text_embeds
    context = torch.cat(context, dim=-1)

    channels = pipe.unet.config.in_channels
    # three rows of the same two texts: one with each timestep, so that rows of one batch are at different steps
    latents = given("latents", (3, channels, 8, 8))
    timesteps = torch.tensor([981.0, 1.0, 500.5])
    rows = torch.tensor([0, 1, 0])
    more = {}
    if xl:
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64], [128, 96, 8, 0, 64, 72], [64, 64, 0, 0, 64, 64]])
        more = {"added_cond_kwargs": {"text_embeds": pooled[rows], "time_ids": sizes}}
        out["unet.sizes"] = sizes
    out |= {"unet.latents": latents, "unet.timesteps": timesteps, "unet.rows": rows}
    out["unet.output"] = pipe.unet(latents, timesteps, context[rows], **more).sample
    odd = given("odd", (1, channels, 9, 13))
    more = {"added_cond_kwargs": {k: v[:1] for k, v in more["added_cond_kwargs"].items()}} if xl else {}
    out |= {"unet.odd_latents": odd, "unet.odd_output": pipe.unet(odd, 500, context[:1], **more).sample}

    latents, picture = given("decoded", (1, 4, 4, 5)), given("encoded", (1, 3, 32, 40))
    moments = pipe.vae.encode(picture).latent_dist
    out |= {"vae.latents": latents, "vae.decoded": pipe.vae.decode(latents).sample,
            "vae.picture": picture, "vae.mean": moments.mean, "vae.logvar": moments.logvar}
    return {name: tensor.detach().contiguous().numpy() for name, tensor in out.items()}


def publish(work):
    """Puts every model's configs into goldens, and its folders with weights where they can be loaded. Gives the shapes of
    each model's tensors."""
    all_shapes = {}
    for name, seeds in SEEDS.items():
        into = GOLDENS / name
        shutil.rmtree(into, ignore_errors=True)
        tensors = all_shapes[name] = models.publish(name, into)
        (into / "tensors.json").write_text(
            "{\n" + ",\n".join(
                f" {json.dumps(part)}: {{\n" + ",\n".join(f"  {json.dumps(t)}: {json.dumps(s)}" for t, s in shapes.items()) + "\n }"
                for part, shapes in tensors.items()) + "\n}\n")
        for seed in seeds:
            shutil.copytree(into, work / f"{name}-{seed}", ignore=shutil.ignore_patterns("tensors.json"))
            models.fill(work / f"{name}-{seed}", tensors, seed)
        # the same for all of them
        for part in ("tokenizer", "tokenizer_2"):
            if (into / part).exists():
                shutil.rmtree(GOLDENS / part, ignore_errors=True)
                (into / part).rename(GOLDENS / part)
    return all_shapes


def versions():
    import diffusers
    import transformers

    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__,
            "numpy": np.__version__}


@torch.no_grad()
def main():
    wanted = sys.argv[1:] or ["components", "pictures", "lora", "schedulers", "noise"]
    GOLDENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        if {"components", "pictures", "lora"} & set(wanted):
            shapes = publish(work)
            for name, seeds in SEEDS.items():
                for seed in seeds if name not in PICTURES_ONLY else []:
                    save_file(component_goldens(work / f"{name}-{seed}"), GOLDENS / name / f"components-{seed}.safetensors")
        if "pictures" in wanted:
            pictures.make(work, GOLDENS)
        if "lora" in wanted:
            lora.make(work, GOLDENS, shapes)
        if "schedulers" in wanted:
            schedulers.make(GOLDENS)
        if "noise" in wanted:
            noise.make(GOLDENS)
        if "generation" in wanted:
            generation.make(work, GOLDENS)
        if "speech" in wanted:
            speech.make(work, GOLDENS)
        if "embeddings" in wanted:
            embeddings.make(work, GOLDENS)
    for folder in (name.removeprefix("minilm=") for name in wanted if name.startswith("minilm=")):
        embeddings.make_real(folder, GOLDENS)
    if {"components", "pictures", "lora", "schedulers", "noise"} & set(wanted):
        (GOLDENS / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
    size = sum(file.stat().st_size for file in GOLDENS.rglob("*") if file.is_file())
    print(f"{GOLDENS}: {size:,} bytes")


if __name__ == "__main__":
    main()
