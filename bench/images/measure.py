"""Text to image on this machine's CPU: the worker and diffusers on the same folder with the same jobs. Pictures a second
alone and four at a time, the time from nothing to the first picture, the most memory. docs/benchmarks.md says how to read
it. Prints a table, and the result as one line of JSON. With MILLRACE_BENCH_GPU=1 the worker alone, on a GPU."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from ours import first_output, say

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GPU = os.environ.get("MILLRACE_BENCH_GPU") == "1"
DEVICE = "Cuda" if GPU else "Cpu"
BATCHES = (1, 4, 8) if GPU else (1, 4)
JOB = {"prompt": "a photo of an astronaut riding a horse on mars", "seed": 7, "guidance_scale": 5.0}


def python():
    """The environment of bench/parity, made the first time."""
    return subprocess.run([ROOT / "bench/parity/install"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]


def model(name, seed, interpreter):
    """The model's folder, made the first time."""
    cache = pathlib.Path(os.environ.get("MILLRACE_CACHE") or pathlib.Path.home() / ".cache" / "millrace")
    script = ROOT / "bench/parity/models.py"
    made_from = script.read_text() + (script.parent / "weights.py").read_text()
    folder, mark = cache / "bench" / f"images-{name}-{seed}", cache / "bench" / f"images-{name}-{seed}.made-from"
    if not mark.exists() or mark.read_text() != made_from:
        say(f"making the model in {folder}")
        command = [interpreter, script, name, str(seed), folder]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        mark.write_text(made_from)
    return folder


def furthest(interpreter, one, other):
    """By how many levels of 255 two pictures differ at most."""
    code = ("import sys, numpy as np; from PIL import Image; a, b = (np.asarray(Image.open(f)).astype(int) for f in sys.argv[1:]); "
            "print(abs(a - b).max())")
    return int(subprocess.run([interpreter, "-c", code, one, other], check=True, stdout=subprocess.PIPE, text=True).stdout)


def peer(interpreter, what, *arguments):
    return [interpreter, ROOT / "bench/images/peer.py", what, *map(str, arguments)]


def measure(arguments, binaries):
    import ours

    interpreter = python()
    folder = arguments.model or model("mid", 1, interpreter)
    job = JOB | {"width": arguments.size, "height": arguments.size, "steps": arguments.steps}
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    us = {"first": [], "whole_first": [], "rss": [], "rate": {batch: [] for batch in BATCHES}}
    them = {"first": [], "whole_first": [], "rss": [], "rate": {batch: [] for batch in BATCHES}}
    versions, apart = {}, None
    say("starting the model server")
    server = ours.Server(binaries, folder)
    try:
        with tempfile.TemporaryDirectory() as pictures:
            pictures = pathlib.Path(pictures)
            for number in range(arguments.rounds):
                say(f"round {number + 1} of {arguments.rounds}: from nothing to a picture")
                for key, steps in (("first", 1), ("whole_first", arguments.steps)):
                    one = job | {"steps": steps}
                    us[key].append(first_output(ours.by_hand(binaries, folder, one, pictures / "ours.png"))[0])
                    them[key].append(first_output(peer(interpreter, "once", folder, json.dumps(one), pictures / "theirs.png"))[0])
                apart = furthest(interpreter, pictures / "ours.png", pictures / "theirs.png")
                most = 0.0
                for batch in BATCHES:
                    say(f"round {number + 1}: {batch} at a time, the worker")
                    rate, memory = ours.rate(binaries, server, job, batch, batch, f"images-{number}-{batch}")
                    us["rate"][batch].append(rate)
                    most = max(most, memory)
                us["rss"].append(most)
                say(f"round {number + 1}: diffusers")
                said = subprocess.run(peer(interpreter, "rates", folder, json.dumps(job), *BATCHES), check=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
                answer = json.loads(said.splitlines()[-1])
                for batch in BATCHES:
                    them["rate"][batch].append(answer["images_per_second"][str(batch)])
                them["rss"].append(answer["peak_rss_mib"])
                versions |= answer["versions"] | {"torch_threads": answer["threads"]}
    finally:
        server.stop()
    said = subprocess.run([binaries / "millrace-worker", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    versions["millrace"] = said.split()[-1]
    return {"us": us, "them": them, "versions": versions, "apart": apart, "job": job}


def on_a_gpu(arguments, binaries):
    """Pictures a second of the worker at each batch size: eight batches, so that the first ones' tuning is paid for."""
    import ours

    folder = arguments.model or model("mid", 1, python())
    job = JOB | {"width": arguments.size, "height": arguments.size, "steps": arguments.steps}
    server = ours.Server(binaries, folder)
    try:
        rates = {}
        for batch in BATCHES:
            say(f"{batch} at a time")
            runs = [ours.rate(binaries, server, job, batch, batch * 8, f"images-{number}-{batch}", DEVICE)[0]
                    for number in range(arguments.rounds)]
            rates[f"images_per_second_batch_{batch}"] = round(statistics.median(runs), 4)
    finally:
        server.stop()
    for name, rate in rates.items():
        print(f"{name:<30} {rate:>10.3f}")
    device = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], check=False,
                            stdout=subprocess.PIPE, text=True).stdout.strip()
    print(json.dumps({"whole": False, "gpu": device, "ours": rates, "job": job}))


def figures(side):
    """Medians over the rounds, with every round's rates beside them."""
    middle = lambda values: round(statistics.median(values), 4)
    rates = {f"images_per_second_batch_{batch}": middle(side["rate"][batch]) for batch in BATCHES}
    rounds = {f"rounds_batch_{batch}": [round(rate, 4) for rate in side["rate"][batch]] for batch in BATCHES}
    return rates | rounds | {"first_image_seconds": middle(side["first"]), "first_whole_image_seconds": middle(side["whole_first"]),
                             "peak_rss_mib": middle(side["rss"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="another folder in the layout of diffusers")
    parser.add_argument("--size", type=int, default=256, help="side of a picture, in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    binaries = os.environ.get("MILLRACE_BENCH_BINARIES")
    if not binaries:
        parser.error("where programs are is not known: run `make bench NAME=images`")
    if GPU:
        on_a_gpu(arguments, pathlib.Path(binaries))
        return
    found = measure(arguments, pathlib.Path(binaries))
    us, them = figures(found["us"]), figures(found["them"])
    more = [f"images_per_second_batch_{batch}" for batch in BATCHES]
    less = ["first_image_seconds", "first_whole_image_seconds", "peak_rss_mib"]
    ratios = {name: round(us[name] / them[name], 3) for name in more}
    ratios |= {f"{name}_less": round(them[name] / us[name], 3) for name in less[:2]}
    ratios["peak_rss_mib"] = round(us["peak_rss_mib"] / them["peak_rss_mib"], 3)
    print(f"{'':<30} {'millrace':>10} {'diffusers':>10}")
    for name in more + less:
        print(f"{name:<30} {us[name]:>10.3f} {them[name]:>10.3f}")
    print(f"the same job's pictures are at most {found['apart']} levels of 255 apart")
    whole = arguments.model is None and (arguments.size, arguments.steps) == (256, 20) and arguments.rounds >= 3
    print(json.dumps({"whole": whole, "ours": us, "peers": {"diffusers": them}, "ratios": ratios, "job": found["job"],
                      "picture_levels_apart": found["apart"], "versions": found["versions"]}))


if __name__ == "__main__":
    main()
