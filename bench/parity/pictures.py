"""Whole pictures: what diffusers' pipelines make of a job, in the worker's own words."""
import contextlib
import json
import shutil

import numpy as np
import torch
from PIL import Image

NUDGE = 5e-6
PROMPT = "a photo of a cat on mars"
SCHEDULERS = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler",
              "LCMScheduler", "UniPCMultistepScheduler", "PNDMScheduler"]


def cases():
    """Each: name, model, seed of its weights, the job's input, and what is changed in scheduler_config.json."""
    job = {"prompt": PROMPT, "width": 64, "height": 64, "steps": 20, "guidance_scale": 5.0, "seed": 7}
    few = {"steps": 4, "guidance_scale": 0.0}
    # sd15 with the weights of seed 3 is chaotic, whatever the noise: see `steady`
    for model, seeds in {"sdxl": (1, 2, 3), "turbo": (1, 2, 3), "sd15": (1, 2, 4), "sd21": (1, 2, 3)}.items():
        for seed in seeds:
            yield f"{model}-{seed}", model, seed, job | ({} if model != "turbo" else few) | {"seed": 6 + seed}, {}
    for model in ("sdxl", "sd15", "sd21"):
        for scheduler in SCHEDULERS:
            # DDIM clips by default, which makes a random model chaotic: the last bit of an input decides what is seen
            changed = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
            yield f"{model}-{scheduler}", model, 1, job | {"scheduler": scheduler}, changed
    for model in ("sdxl", "sd15"):
        yield f"{model}-unguided", model, 1, job | {"guidance_scale": 1.0}, {}
        yield f"{model}-rescale", model, 1, job | {"guidance_rescale": 0.7, "guidance_scale": 9.0}, {}
        yield f"{model}-negative", model, 1, job | {"negative_prompt": "a dark blurry painting", "seed": 2**63}, {}
        yield f"{model}-blank", model, 1, job | {"negative_prompt": ""}, {}
        yield f"{model}-two", model, 1, job | {"num_images": 2, "scheduler": "EulerAncestralDiscreteScheduler"}, {}
        yield f"{model}-wide", model, 1, job | {"width": 104, "height": 72, "steps": 5}, {}
        yield f"{model}-karras", model, 1, job | {"scheduler": "DPMSolverMultistepScheduler"}, {"use_karras_sigmas": True}
        image = job | {"image": "input.png", "strength": 0.6}
        yield f"{model}-image", model, 1, image, {}
        yield f"{model}-image-ancestral", model, 1, image | {"scheduler": "EulerAncestralDiscreteScheduler"}, {}
        yield f"{model}-image-lcm", model, 1, image | {"scheduler": "LCMScheduler", "steps": 8}, {}
        yield f"{model}-image-dpm", model, 1, image | {"scheduler": "DPMSolverMultistepScheduler", "num_images": 2}, {}
        yield f"{model}-mask", model, 1, image | {"mask": "mask.png", "strength": 0.8}, {}
        yield f"{model}-mask-full", model, 1, image | {"mask": "mask.png", "strength": 1.0}, {}
        yield f"{model}-mask-ancestral", model, 1, image | {
            "mask": "mask.png", "strength": 0.8, "scheduler": "EulerAncestralDiscreteScheduler"}, {}
    yield "refiner", "refiner", 1, image | {"strength": 0.3}, {}
    yield "refiner-negative", "refiner", 1, image | {"negative_prompt": "a dark blurry painting"}, {}
    yield "xlinpaint", "xlinpaint", 1, image | {"mask": "mask.png", "strength": 0.9999}, {}
    yield "xlinpaint-part", "xlinpaint", 1, image | {"mask": "mask.png", "strength": 0.7, "scheduler": "DPMSolverMultistepScheduler"}, {}
    yield "inpaint", "inpaint", 1, image | {"mask": "mask.png", "strength": 1.0}, {}
    yield "inpaint-part", "inpaint", 1, image | {"mask": "mask.png", "strength": 0.7, "scheduler": "DDIMScheduler"}, {}
    # a config of before these keys were known, which StableDiffusionPipeline mends and StableDiffusionXLPipeline does not
    for model, clip in (("sdxl", False), ("sd15", True)):
        yield f"{model}-old-config", model, 1, job, {"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": clip}
    for zero in ("DDIMScheduler", "EulerDiscreteScheduler"):
        yield f"sd21-zero-snr-{zero}", "sd21", 1, job | {"guidance_rescale": 0.7}, {
            "_class_name": zero, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def given(goldens):
    """The picture and the mask that jobs start from."""
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([4 * x, 4 * y, 255 - 2 * (x + y)], axis=-1).astype(np.uint8)
    picture[20:40, 24:52] = [200, 60, 30]
    Image.fromarray(picture).save(goldens / "pictures" / "input.png")
    Image.fromarray((((x - 36) ** 2 + (y - 30) ** 2 < 300) * 255).astype(np.uint8)).save(goldens / "pictures" / "mask.png")


@contextlib.contextmanager
def edited(folder, changed):
    """The folder with another scheduler; its class stands in two files, and diffusers believes model_index.json."""
    config, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    kept = {file: file.read_text() for file in (config, index)}
    config.write_text(json.dumps(json.loads(kept[config]) | changed))
    if "_class_name" in changed:
        index.write_text(json.dumps(json.loads(kept[index]) | {"scheduler": ["diffusers", changed["_class_name"]]}))
    yield
    for file, content in kept.items():
        file.write_text(content)


def pipeline(folder, job):
    """The pipeline that does this job."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())["_class_name"]
    kind = "Inpaint" if "mask" in job else "Img2Img" if "image" in job else ""
    name = f"StableDiffusion{'XL' if 'XL' in index else ''}{kind}Pipeline"
    more = {} if "XL" in index else {"safety_checker": None, "requires_safety_checker": False}
    if "XL" in index and not kind:
        more = {"add_watermarker": False}
    pipe = getattr(diffusers, name).from_pretrained(folder, **more)
    if "scheduler" in job:
        pipe.scheduler = getattr(diffusers, job["scheduler"]).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, job, goldens):
    """The pictures of a job, 8-bit."""
    names = {"steps": "num_inference_steps", "num_images": "num_images_per_prompt", "mask": "mask_image"}
    call = {names.get(key, key): value for key, value in job.items() if key not in ("seed", "scheduler")}
    for key in ("image", "mask_image"):
        if key in call:
            call[key] = Image.open(goldens / "pictures" / call[key])
    if "image" in call and "mask_image" not in call:
        del call["width"], call["height"]
    if "Img2Img" in type(pipe).__name__ and "XL" not in type(pipe).__name__ or "Inpaint" in type(pipe).__name__:
        call.pop("guidance_rescale", None)
    return pipe(**call, generator=torch.Generator("cpu").manual_seed(job["seed"])).images


@contextlib.contextmanager
def nudged():
    """All noise is off by a few millionths, as another machine's rounding would have it after some steps."""
    randn = torch.randn

    def off(*size, **more):
        drawn = randn(*size, **more)
        signs = torch.sign(torch.sin(torch.arange(drawn.numel(), dtype=torch.float32) * 77.7)).reshape(drawn.shape)
        return drawn * (1 + NUDGE * signs)

    torch.randn = off
    try:
        yield
    finally:
        torch.randn = randn


def steady(folder, job, goldens):
    """The pictures of a job, under the first seed from its own on (in hundreds) with which a model of random weights is not
    chaotic: else the last bit of an input would decide what is seen, and nobody's pictures could be compared."""
    for seed in range(job["seed"], job["seed"] + 1000, 100):
        tried = job | {"seed": seed % 2**64}
        made = run(pipeline(folder, tried), tried, goldens)
        with nudged():
            other = run(pipeline(folder, tried), tried, goldens)
        apart = max(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() for a, b in zip(made, other))
        if apart <= 1:
            return made, tried
        print(f"{folder.name} {tried}: chaotic, {apart} levels")
    raise SystemExit(f"{job}: chaotic with every seed; change the case")


def make(work, goldens):
    """Writes pictures/*.png and pictures.json."""
    shutil.rmtree(goldens / "pictures", ignore_errors=True)
    (goldens / "pictures").mkdir(parents=True)
    given(goldens)
    listed = []
    for name, model, seed, job, changed in cases():
        folder = work / f"{model}-{seed}"
        with edited(folder, changed):
            made, job = steady(folder, job, goldens)
        files = [f"{name}{f'-{i}' if len(made) > 1 else ''}.png" for i in range(len(made))]
        for path, picture in zip(files, made):
            picture.save(goldens / "pictures" / path, optimize=True)
        listed.append({"name": name, "model": model, "weights": seed, "input": job, "scheduler_config": changed, "files": files})
    (goldens / "pictures.json").write_text("[\n" + ",\n".join(" " + json.dumps(case) for case in listed) + "\n]\n")
