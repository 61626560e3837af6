"""sentence-transformers and ONNX Runtime on a model folder, on the CPU with all its threads: the peers of
`make bench NAME=embeddings`.

    peer.py export MODEL FILE                    # the encoder as ONNX
    peer.py once KIND MODEL TEXT                 # from nothing to one vector; prints its length as soon as it is there
    peer.py rate KIND MODEL TEXTS VECTORS        # vectors of a file of JSON Lines, as .npy; prints one line of JSON

KIND is sentence-transformers, or onnx, whose file lies beside the model as `model.onnx`.
"""
import json
import pathlib
import platform
import resource
import sys
import time

import numpy as np

BATCH = 32  # sentence-transformers' own
WARM_UP = ["a lighthouse at night"] * BATCH


class SentenceTransformers:
    """As its documentation uses it: it sorts texts by length, and pads each batch to its longest."""

    def __init__(self, folder):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(folder, device="cpu")

    def encode(self, texts):
        return self.model.encode(texts, batch_size=BATCH, show_progress_bar=False)


class Onnx:
    """The same around an ONNX session: sorted by length, the mean of the tokens, made as long as one."""

    def __init__(self, folder):
        import onnxruntime
        from tokenizers import Tokenizer

        folder = pathlib.Path(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer.enable_truncation(longest)
        self.tokenizer.enable_padding()
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def encode(self, texts):
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = [None] * len(texts)
        for first in range(0, len(texts), BATCH):
            places = order[first : first + BATCH]
            read = self.tokenizer.encode_batch([texts[place] for place in places])
            mask = np.array([text.attention_mask for text in read], dtype=np.int64)
            given = {"input_ids": np.array([text.ids for text in read], dtype=np.int64), "attention_mask": mask,
                     "token_type_ids": np.zeros_like(mask)}
            tokens = self.session.run(None, {name: given[name] for name in self.names})[0]
            shares = mask[:, :, None].astype(np.float32)
            pooled = (tokens * shares).sum(1) / shares.sum(1)
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
            for place, vector in zip(places, pooled):
                vectors[place] = vector
        return np.stack(vectors)


KINDS = {"sentence-transformers": SentenceTransformers, "onnx": Onnx}


def export(folder, file):
    import torch
    from transformers import AutoModel

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.encoder(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    example = torch.ones((2, 8), dtype=torch.int64)
    size = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=512)}
    names = ("input_ids", "attention_mask", "token_type_ids")
    torch.onnx.export(Tokens(), (example, example, example * 0), file, input_names=names, dynamo=True, external_data=False,
                      dynamic_shapes=dict.fromkeys(names, size))


def versions(kind):
    import importlib.metadata

    package = {"onnx": "onnxruntime"}.get(kind, kind)
    return {"python": platform.python_version(), package: importlib.metadata.version(package)}


def main():
    what, *arguments = sys.argv[1:]
    if what == "export":
        export(*arguments)
        return
    kind, folder, given, *to = arguments
    model = KINDS[kind](folder)
    if what == "once":
        print(len(model.encode([given])[0]), flush=True)
        return
    texts = [json.loads(line)["text"] for line in pathlib.Path(given).read_text().splitlines()]
    model.encode(WARM_UP)
    began = time.perf_counter()
    vectors = model.encode(texts)
    seconds = time.perf_counter() - began
    np.save(to[0], vectors)
    print(json.dumps({"texts_per_second": len(texts) / seconds, "versions": versions(kind),
                      "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
