"""MiniLM on this machine's CPU: the worker, sentence-transformers and ONNX Runtime on the same folder with the same texts
of mixed lengths. Texts a second, the time from nothing to the first vector, the most memory. docs/benchmarks.md says how
to read it. Prints a table, and the result as one line of JSON."""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "bench" / "images"))
SHORTEST, LONGEST = 3, 180  # words of a text
TEXT = "a lighthouse at night"
SAME = 1e-4  # 1 less the cosine of two vectors of one text
PEERS = ("sentence-transformers", "onnx")


def printed(command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}).stdout


def texts(model, count):
    """Texts of words that the model knows, whose lengths are spread evenly over the orders of magnitude."""
    words = [word for word in (model / "vocab.txt").read_text().splitlines() if word.isalpha() and len(word) > 1]
    draw = random.Random(7)
    length = lambda: round(SHORTEST * (LONGEST / SHORTEST) ** draw.random())
    return [" ".join(draw.choices(words, k=length())) for _ in range(count)]


def with_onnx(interpreter, model):
    """The model's folder with its encoder as ONNX, made the first time."""
    folder = model.parent / "minilm-onnx"
    if not (folder / "model.onnx").exists():
        folder.mkdir(exist_ok=True)
        printed([interpreter, ROOT / "bench/embeddings/peer.py", "export", model, folder / "exported.onnx"])
        for name in ("tokenizer.json", "sentence_bert_config.json"):
            (folder / name).write_bytes((model / name).read_bytes())
        (folder / "exported.onnx").rename(folder / "model.onnx")
    return folder


def furthest(interpreter, one, other):
    """1 less the cosine of the two sides' vectors of a text, at most."""
    code = ("import sys, numpy as np; a, b = (np.load(f).astype(np.float64) for f in sys.argv[1:]); "
            "print((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())")
    return float(printed([interpreter, "-c", code, one, other]))


def measure(arguments, binaries):
    import ours
    from ours import first_output, say

    interpreter = printed([ROOT / "bench/parity/install", "embeddings"]).split()[-1]
    printed([ROOT / "bench/parity/install", "onnx"])
    model = pathlib.Path(printed([ROOT / "bench/parity/minilm"]).split()[-1])
    say("the encoder as ONNX")
    folders = {"sentence-transformers": model, "onnx": with_onnx(interpreter, model)}
    peer = lambda what, kind, *more: [interpreter, ROOT / "bench/embeddings/peer.py", what, kind, folders[kind], *more]
    sides = {side: {"rate": [], "first": [], "rss": []} for side in ("millrace", *PEERS)}
    versions, apart = {}, {}
    say("starting the model server")
    server = ours.Server(binaries, model)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            lines = folder / "texts.jsonl"
            lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(model, arguments.texts)))
            for number in range(arguments.rounds):
                say(f"round {number + 1} of {arguments.rounds}: from nothing to a vector")
                commands = {"millrace": [binaries / "millrace-worker", "infer", "--model", model, "--task", "TextEmbedding",
                                         "--input", TEXT, "--device", "cpu"]}
                commands |= {kind: peer("once", kind, TEXT) for kind in PEERS}
                for side, command in commands.items():
                    sides[side]["first"].append(first_output([str(word) for word in command])[0])
                say(f"round {number + 1}: {arguments.texts} texts, the worker")
                name = f"embeddings-{number}"
                spec = {"task": "TextEmbedding", "device": "Cpu", "parameters": {"format": "npy"}}
                server.aws.create(f"{name}-texts")
                ours.put(server.port, f"/{name}-texts/texts.jsonl", lines)
                job = {"job_id": "all", "input": {"source": f"s3://{name}-texts/texts.jsonl"}}
                warm = {"job_id": "warm", "input": {"texts": [TEXT] * 32}}
                seconds, memory = ours.through_a_queue(binaries, server, spec, [job], name, warm=warm,
                                                       allow={"inputBuckets": [f"{name}-texts"]})
                sides["millrace"]["rate"].append(arguments.texts / seconds)
                sides["millrace"]["rss"].append(memory)
                (folder / "ours.npy").write_bytes(server.aws._call("s3", f"/{name}/bench/embeddings/all.npy"))
                for kind in PEERS:
                    say(f"round {number + 1}: {kind}")
                    answer = json.loads(printed(peer("rate", kind, lines, folder / f"{kind}.npy")).splitlines()[-1])
                    sides[kind]["rate"].append(answer["texts_per_second"])
                    sides[kind]["rss"].append(answer["peak_rss_mib"])
                    versions |= answer["versions"]
                    apart[kind] = furthest(interpreter, folder / "ours.npy", folder / f"{kind}.npy")
                    if apart[kind] > SAME:
                        sys.exit(f"{kind} has other vectors (1 less the cosine: {apart[kind]:.1e}): what it does is not the same work")
    finally:
        server.stop()
    versions["millrace"] = printed([binaries / "millrace-worker", "--version"]).split()[-1]
    return sides, versions, apart


def figures(side):
    middle = lambda values: round(statistics.median(values), 4)
    return {"texts_per_second": middle(side["rate"]), "rounds": [round(rate, 2) for rate in side["rate"]],
            "first_vector_seconds": middle(side["first"]), "peak_rss_mib": middle(side["rss"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    binaries = os.environ.get("MILLRACE_BENCH_BINARIES")
    if not binaries:
        parser.error("where programs are is not known: run `make bench NAME=embeddings`")
    sides, versions, apart = measure(arguments, pathlib.Path(binaries))
    found = {side: figures(values) for side, values in sides.items()}
    ours = found.pop("millrace")
    best = {"texts_per_second": max(peer["texts_per_second"] for peer in found.values()),
            "first_vector_seconds": min(peer["first_vector_seconds"] for peer in found.values()),
            "peak_rss_mib": min(peer["peak_rss_mib"] for peer in found.values())}
    ratios = {"texts_per_second": round(ours["texts_per_second"] / best["texts_per_second"], 3),
              "first_vector_seconds_less": round(best["first_vector_seconds"] / ours["first_vector_seconds"], 3),
              "peak_rss_mib": round(ours["peak_rss_mib"] / best["peak_rss_mib"], 3)}
    print(f"{'':<24} {'millrace':>10} " + " ".join(f"{kind:>22}" for kind in found))
    for name in best:
        print(f"{name:<24} {ours[name]:>10.3f} " + " ".join(f"{peer[name]:>22.3f}" for peer in found.values()))
    print("cosines of the same text's vectors differ from 1 by at most " + ", ".join(f"{far:.1e} ({kind})" for kind, far in apart.items()))
    whole = arguments.texts == 2000 and arguments.rounds >= 3
    print(json.dumps({"whole": whole, "ours": ours, "peers": found, "ratios": ratios, "texts": arguments.texts,
                      "words": [SHORTEST, LONGEST], "cosine_apart": apart, "versions": versions}))


if __name__ == "__main__":
    main()
