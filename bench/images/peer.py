"""diffusers on a model folder, on the CPU with all its threads: the peer of `make bench NAME=images`.

    peer.py once MODEL JOB PICTURE      # from nothing to one picture; prints its path as soon as it is written
    peer.py rates MODEL JOB BATCH…      # pictures a second at each batch size; prints one line of JSON

JOB is JSON in the worker's words.
"""
import json
import platform
import resource
import sys
import time

import torch
from diffusers import DiffusionPipeline

WARM_UP_STEPS = 1


def load(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(pipe, job, count, steps=None):
    """So many pictures in one batch, each with a seed of its own."""
    generators = [torch.Generator("cpu").manual_seed(job["seed"] + i) for i in range(count)]
    return pipe([job["prompt"]] * count, width=job["width"], height=job["height"], guidance_scale=job["guidance_scale"],
                num_inference_steps=steps or job["steps"], generator=generators).images


def rate(pipe, job, batch):
    pictures(pipe, job, batch, WARM_UP_STEPS)
    began = time.perf_counter()
    made = pictures(pipe, job, batch)
    return len(made) / (time.perf_counter() - began)


def main():
    what, folder, job = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if what == "once":
        pictures(load(folder), job, 1)[0].save(sys.argv[4])
        print(sys.argv[4], flush=True)
        return
    import diffusers
    import transformers

    pipe = load(folder)
    rates = {batch: rate(pipe, job, int(batch)) for batch in sys.argv[4:]}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__,
                "transformers": transformers.__version__}
    print(json.dumps({"images_per_second": rates, "threads": torch.get_num_threads(), "versions": versions,
                      "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
