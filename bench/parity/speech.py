"""Goldens of speech: a tiny Whisper, and what transformers hears with it.

The model's config lies in goldens/speech/whisper; its weights follow from the seed (weights.py), and so does the audio: noise
that is louder and softer. cases.json has what is asked and the segments that transformers writes; speech.safetensors has features,
what the encoder makes of them and logits; tone.* are files of one tone as encoders write them.
"""
import shutil

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from embeddings import CORPUS, save, write
from generation import SEED, fill, keep
from weights import values

PLACES, TOKENS, BANDS, TEXTS = 100, 40, 80, 300
MARKS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|translate|>", "<|transcribe|>",
         "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
RATE = 16000
# samples of each audio: less than a window, and several
LENGTHS = {"short": 27000, "long": 118000}
CASES = [
    {"audio": "short", "timestamps": False},
    {"audio": "short", "timestamps": False, "language": "de", "task": "translate"},
    {"audio": "short", "timestamps": False, "language": "en", "prompt": "a lighthouse on a cliff"},
    {"audio": "long", "timestamps": True},
    {"audio": "long", "timestamps": True, "language": "fr"},
    {"audio": "long", "timestamps": True, "language": "en", "task": "translate"},
]


def tokenizer():
    """Texts, then marks, then times, as Whisper's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=TEXTS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    assert made.get_vocab_size() == TEXTS
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    made.add_special_tokens([AddedToken(f"<|{place / 50:.2f}|>", special=True, normalized=False) for place in range(PLACES + 1)])
    return made


def audio(name):
    """Noise in steps of a tenth of a second, each of another loudness."""
    length = LENGTHS[name]
    loud = (np.arange(length) // 1600 * 5 % 8).astype(np.float32)
    return values(0, "audio", name, (length,)) * loud


def publish(folder, words):
    import transformers

    mark = {name: words.token_to_id(name) for name in MARKS}
    config = transformers.WhisperConfig(
        vocab_size=words.get_vocab_size(), num_mel_bins=BANDS, d_model=32, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=PLACES,
        max_target_positions=TOKENS, decoder_start_token_id=mark["<|startoftranscript|>"], eos_token_id=mark["<|endoftext|>"],
        bos_token_id=mark["<|endoftext|>"], pad_token_id=mark["<|endoftext|>"], suppress_tokens=None, begin_suppress_tokens=None)
    generation = transformers.GenerationConfig(
        decoder_start_token_id=mark["<|startoftranscript|>"], eos_token_id=mark["<|endoftext|>"], pad_token_id=mark["<|endoftext|>"],
        bos_token_id=mark["<|endoftext|>"], no_timestamps_token_id=mark["<|notimestamps|>"], prev_sot_token_id=mark["<|startofprev|>"],
        is_multilingual=True, lang_to_id={name: mark[name] for name in ("<|en|>", "<|de|>", "<|fr|>")},
        task_to_id={"transcribe": mark["<|transcribe|>"], "translate": mark["<|translate|>"]},
        suppress_tokens=[5, 7, *(mark[name] for name in MARKS[1:9])], begin_suppress_tokens=[3, mark["<|endoftext|>"]],
        max_initial_timestamp_index=20, max_length=TOKENS, return_timestamps=False)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = generation
    words.save(str(folder / "tokenizer.json"))
    extractor().save_pretrained(folder)
    return keep(model, folder)


def extractor():
    import transformers

    return transformers.WhisperFeatureExtractor(feature_size=BANDS, chunk_length=PLACES // 50)


def features(name):
    """Of short audio those of a whole window."""
    longer = {} if name == "short" else {"truncation": False, "padding": "longest"}
    return extractor()(audio(name), sampling_rate=RATE, return_tensors="pt", **longer).input_features


class NoTimes:
    """A model that was trained gives no times where it is asked for none; one of random weights must be told."""

    def __init__(self, words):
        self.zero = words.token_to_id("<|0.00|>")

    def __call__(self, ids, scores):
        scores[:, self.zero:] = -float("inf")
        return scores


class Clear:
    """How clear the least clear choice was."""

    def __init__(self):
        self.least = 1e9

    def __call__(self, ids, scores):
        best = torch.topk(scores, 2).values
        self.least = min(self.least, float((best[:, 0] - best[:, 1]).min()))
        return scores


def write_down(model, words, case):
    from transformers import LogitsProcessorList

    clear = Clear()
    more = {}
    if "prompt" in case:
        before = [words.token_to_id("<|startofprev|>"), *words.encode(" " + case["prompt"]).ids]
        more["prompt_ids"] = torch.tensor(before)
    steps = [clear] if case["timestamps"] else [NoTimes(words), clear]
    made = model.generate(
        features(case["audio"]), return_timestamps=case["timestamps"], language=case.get("language"),
        task=case.get("task", "transcribe"), return_segments=True, logits_processor=LogitsProcessorList(steps), **more)
    assert clear.least > 1e-4, f"{case}: two tokens are {clear.least} apart; take another audio"
    segments = [
        {"start": round(float(one["start"]) * 100), "end": round(float(one["end"]) * 100), "tokens": one["tokens"].tolist()}
        for one in made["segments"][0]]
    return segments


def tones(into):
    """One tone, at another rate than models hear, by other encoders."""
    import soundfile

    turn = np.arange(22050) * (440 * 2 * np.pi / 44100)
    tone = np.stack([np.sin(turn), np.sin(turn)], axis=1) / 3
    for file, kind in {"tone.flac": {}, "tone.ogg": {"subtype": "VORBIS"}, "tone.mp3": {}, "tone.wav": {"subtype": "PCM_24"}}.items():
        soundfile.write(into / file, tone, 44100, **kind)


@torch.no_grad()
def make(work, goldens):
    import transformers

    into = goldens / "speech"
    shutil.rmtree(into, ignore_errors=True)
    (into / "whisper").mkdir(parents=True)
    words = tokenizer()
    shapes = publish(into / "whisper", words)
    folder = work / "whisper"
    fill(into / "whisper", folder, shapes)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor([[words.token_to_id("<|startoftranscript|>"), words.token_to_id("<|de|>"), 17, 4, 200]])
    seen = model(features("short"), decoder_input_ids=ids)
    made = {
        "short.features": features("short")[0].T[::4].contiguous().numpy(), "long.features": features("long")[0].T[::10].contiguous().numpy(),
        "encoded": seen.encoder_last_hidden_state[0].numpy(), "ids": ids[0].numpy(), "logits": seen.logits[0].numpy(),
    }
    save(made, into / "speech.safetensors")
    tones(into)
    cases = [case | {"segments": write_down(model, words, case)} for case in CASES]
    write(into / "cases.json", {"seed": SEED, "lengths": LENGTHS, "cases": cases})
    write(into / "versions.json", {
        "torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__,
        "soundfile": __import__("soundfile").__version__})
