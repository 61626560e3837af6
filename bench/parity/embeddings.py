"""Goldens of text embeddings: tiny models of every architecture, and what sentence-transformers makes of texts with them.

A model is a folder in the layout of sentence-transformers; its weights follow from the seed (weights.py), the rest lies in
goldens/embeddings/MODEL. cases.json says which texts and settings, embeddings.safetensors has the vectors, minilm.* those of a
model with real weights.
"""
import json
import shutil

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from weights import values

SEED = 1
WIDTH, INNER, HEADS, LAYERS, PLACES = 16, 24, 2, 3, 40
# what tokenizers are trained on, and what is embedded
CORPUS = [
    "a lighthouse on a cliff at night", "the small dog and the old cat sat in the house by the river",
    "how many jobs wait in the queue, and for how long?", "une maison près de la mer à l'aube", "Über die Brücke von Köln",
    "vectors of texts are compared by their angles", "one two three four five six seven eight nine ten",
]
TEXTS = [
    "a lighthouse at night", "", "The OLD cat, the small dog & 42 vectors!", "x", "près de la mer à l'aube 🙂 漢字",
    "  spaces \t and\nlines  ", "how long do jobs wait in the queue? " * 6, "one two three four five",
    "seven eight nine ten, one two three", "a cat",
]
# for a model that knows words: short, empty, of other languages, longer than it reads
REAL_TEXTS = TEXTS + [
    "millrace runs GPU inference from SQS queues on Kubernetes: nothing is lost, nothing is inferred twice without need, and no "
    "GPU idles without reason.",
    "The worker receives jobs, infers in batches, uploads results and deletes the messages. " * 40,
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROBERTA = dict(
    hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS, type_vocab_size=1,
    max_position_embeddings=PLACES + 2, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2)
CONFIGS = {
    "bert": ("BertConfig", "BertModel", dict(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS, pad_token_id=0,
        max_position_embeddings=PLACES)),
    "roberta": ("RobertaConfig", "RobertaModel", ROBERTA),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", ROBERTA),
    "mpnet": ("MPNetConfig", "MPNetModel", dict(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_position_embeddings=PLACES + 2, layer_norm_eps=1e-5, hidden_act="gelu_new")),
    "distilbert": ("DistilBertConfig", "DistilBertModel", dict(
        dim=WIDTH, hidden_dim=INNER, n_layers=LAYERS, n_heads=HEADS, max_position_embeddings=PLACES, activation="relu")),
    "modernbert": ("ModernBertConfig", "ModernBertModel", dict(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS + 1, num_attention_heads=HEADS,
        max_position_embeddings=PLACES, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3)),
}
# each model with another pooling, and one with several
MODULES = {
    "bert": [("Pooling", {"pooling_mode": "mean"}), ("Normalize", None)],
    "roberta": [("Pooling", {"pooling_mode": "cls"})],
    "xlm-roberta": [("Pooling", {"pooling_mode": ["mean", "max"]}), ("Dense", "torch.nn.modules.activation.Tanh"), ("Normalize", None)],
    "mpnet": [("Pooling", {"pooling_mode": "weightedmean", "include_prompt": False}), ("Normalize", None)],
    "distilbert": [("Pooling", {"pooling_mode": "mean_sqrt_len_tokens"}), ("Dense", "torch.nn.modules.linear.Identity")],
    "modernbert": [("Pooling", {"pooling_mode": "lasttoken"})],
}
PROMPTS = {"query": "query: ", "document": "one two: "}
CASES = [
    {}, {"prompt_name": "query"}, {"prompt": "how many jobs: "}, {"normalize": True}, {"dimensions": 5},
    {"dimensions": 7, "normalize": True},
]


def word_pieces(special):
    """BERT's tokenizer; `special` are its tokens for padding, unknown words, begin, end and masks."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    return tokenizer


def byte_pairs():
    """RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram():
    """XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def tokenizer_of(name):
    """A tokenizer as published models of this kind have it, and what its special tokens are called."""
    named = dict(cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>")
    if name == "roberta":
        return byte_pairs(), named
    if name == "xlm-roberta":
        return unigram(), named
    if name == "mpnet":
        # BERT's words between RoBERTa's marks, with padding as number 1
        tokenizer = word_pieces(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=False)
        return tokenizer, named | {"unk_token": "[UNK]"}
    tokenizer = word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids)
    return tokenizer, dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def shapes_of(file):
    with safe_open(file, "np") as weights:
        return {tensor: weights.get_slice(tensor).get_shape() for tensor in sorted(weights.keys())}


def publish(name, folder):
    """Writes all of a model but its weights, and tensors.json with their names and shapes, by component."""
    import transformers

    tokenizer, special = tokenizer_of(name)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": PLACES - 2 if name == "roberta" else 512} | special)
    config, model, settings = CONFIGS[name]
    model = getattr(transformers, model)(getattr(transformers, config)(vocab_size=tokenizer.get_vocab_size(), **settings))
    model.save_pretrained(folder / "saved")
    tensors = {"": shapes_of(folder / "saved/model.safetensors")}
    (folder / "saved/config.json").rename(folder / "config.json")
    shutil.rmtree(folder / "saved")

    # of RoBERTa the limit is its tokenizer's, of DistilBERT the places that there are
    if name not in ("roberta", "distilbert"):
        write(folder / "sentence_bert_config.json", {"max_seq_length": PLACES - 4, "do_lower_case": name == "xlm-roberta"})
    default = "document" if name == "distilbert" else None
    write(folder / "config_sentence_transformers.json", {"prompts": PROMPTS, "default_prompt_name": default})
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    width = WIDTH
    for index, (kind, settings) in enumerate(MODULES[name], 1):
        path = f"{index}_{kind}"
        modules.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        if kind == "Pooling":
            width *= len(settings["pooling_mode"]) if isinstance(settings["pooling_mode"], list) else 1
            write(folder / path / "config.json", {"embedding_dimension": WIDTH} | settings)
        if kind == "Dense":
            write(folder / path / "config.json",
                  {"in_features": width, "out_features": 12, "bias": True, "activation_function": settings})
            tensors[path] = {"linear.bias": [12], "linear.weight": [12, width]}
    write(folder / "modules.json", modules)
    lines = ",\n".join(
        f" {json.dumps(part)}: {{\n" + ",\n".join(f"  {json.dumps(t)}: {json.dumps(s)}" for t, s in shapes.items()) + "\n }"
        for part, shapes in tensors.items())
    (folder / "tensors.json").write_text("{\n" + lines + "\n}\n")
    return tensors


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def vectors(folder, case):
    model = load(folder)
    named = {"normalize": "normalize_embeddings", "dimensions": "truncate_dim"}
    settings = {named.get(key, key): value for key, value in case.items()}
    # here a vector that is cut is made as long as one again where its model makes all of them so
    if case.get("dimensions") and type(model[-1]).__name__ == "Normalize":
        settings["normalize_embeddings"] = True
    return model.encode(TEXTS, batch_size=4, show_progress_bar=False, **settings).astype(np.float32)


def make(work, goldens):
    """The tiny models, and their vectors."""
    into = goldens / "embeddings"
    into.mkdir(exist_ok=True)
    made = {}
    for name in CONFIGS:
        shutil.rmtree(into / name, ignore_errors=True)
        tensors = publish(name, into / name)
        folder = work / f"embeddings-{name}"
        shutil.copytree(into / name, folder)
        for part, shapes in tensors.items():
            weights = {tensor: values(SEED, part, tensor, shape) for tensor, shape in shapes.items()}
            save_file(weights, folder / part / "model.safetensors", {"format": "pt"})
        for index, case in enumerate(CASES):
            made[f"{name}.{index}"] = vectors(folder, case)
    write(into / "cases.json", {"texts": TEXTS, "models": {name: SEED for name in CONFIGS}, "cases": CASES})
    save(made, into / "embeddings.safetensors")
    write(into / "versions.json", versions())


def make_real(folder, goldens):
    """Vectors of all-MiniLM-L6-v2 with its own weights."""
    made = load(folder).encode(REAL_TEXTS, batch_size=4, show_progress_bar=False).astype(np.float32)
    write(goldens / "embeddings" / "minilm.json", REAL_TEXTS)
    save({"vectors": made}, goldens / "embeddings" / "minilm.safetensors")


def save(tensors, file):
    save_file(tensors, file)
    file.chmod(0o644)  # safetensors lets only the owner read it


def versions():
    import sentence_transformers
    import tokenizers
    import transformers

    return {"torch": torch.__version__, "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "numpy": np.__version__}
