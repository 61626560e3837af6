"""Goldens of text generation: tiny models of every family, and what transformers makes of prompts with them.

A model's config lies in goldens/generation/MODEL; its weights follow from the seed (weights.py), and all share one
tokenizer; llama.gguf is the first of them as llama.cpp's converter writes it. cases.json has prompts, the tokens that follow them greedily, conversations as chat templates render them and
settings of samplers; generation.safetensors has logits and the samplers' probabilities.
"""
import copy
import json
import shutil

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from embeddings import CORPUS, save, shapes_of, write
from weights import values

SEED = 1
TOKENS = 24
PLACES = 128
SPECIAL = ["<|begin|>", "<|end|>", "<|turn|>", "<|over|>"]
PROMPTS = ["a lighthouse on a cliff", "how many jobs wait in the queue, and for how long? " * 2, "x", "près de la mer 🙂 漢字"]
SIZES = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=PLACES, bos_token_id=0, eos_token_id=1, pad_token_id=None)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "llama": ("LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=False)),
    "llama-linear": ("LlamaConfig", dict(
        rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True)),
    "qwen2": ("Qwen2Config", dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen3": ("Qwen3Config", dict(tie_word_embeddings=False, head_dim=12)),
    "mistral": ("MistralConfig", dict(tie_word_embeddings=False, sliding_window=8, num_key_value_heads=1)),
}
# written for these tests in the manner of published ones: what these call, with words of our own
TEMPLATES = {
    "turns": """{%- if messages[0]['role'] == 'system' %}
    {{- '<|turn|>system\\n' + messages[0]['content'] + '<|over|>\\n' }}
    {%- set rest = messages[1:] %}
{%- else %}
    {{- '<|turn|>system\\nYou help.<|over|>\\n' }}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {{- '<|turn|>' + message.role + '\\n' + message.content + '<|over|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\\n' }}
{%- endif %}
""",
    "strict": """{{ bos_token }}{% set state = namespace(system='') %}{% for message in messages %}
{% if message['role'] == 'system' %}
{% if not loop.first %}{{ raise_exception('the system speaks first') }}{% endif %}
{% set state.system = message['content'] | trim + '\\n\\n' %}
{% elif message['role'] == 'user' %}
[ask] {{ state.system }}{{ message['content'].strip() }} [/ask]
{%- set state.system = '' %}
{% elif message['role'] == 'assistant' %}
 {{ message['content'].strip() }}{{ eos_token }}
{%- else %}{{ raise_exception('no role is called ' + message['role'] + '; there are user, assistant and system') }}
{% endif %}{% endfor %}""",
    "python": """{%- macro told(text) -%}{{ text.split('</think>')[-1].lstrip('\\n') if '</think>' in text else text }}{%- endmacro -%}
{{- bos_token }}{% if tools is defined and tools %}tools{% endif -%}
{%- if strftime_now is defined %}{{ 'year ' if strftime_now('%Y') | int > 2000 else 'never ' }}{% endif -%}
{%- for message in messages %}
{%- if message.role.startswith('tool') %}{% continue %}{% endif %}
{%- if message.content is string and message.role != 'user' %}{{ loop.index0 }}:{{ told(message.content) | upper }};
{%- else %}{{ message | tojson }} {{ message.get('name', 'nobody').title() }};{% endif %}
{%- if loop.last and message.role == 'user' %} last{% endif %}{% endfor -%}
{{ '\\n' if add_generation_prompt }}{% for key, value in messages[0].items() | sort %}{{ key }}={{ value[:2] }},{% endfor %}""",
}
CONVERSATIONS = [
    [{"role": "user", "content": "How high is a lighthouse?"}],
    [{"role": "system", "content": "  Be short. "}, {"role": "user", "content": " Why?\n"}],
    [{"role": "user", "content": "a <b> & 'c' \"d\" é"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"},
     {"role": "user", "content": "And then?"}],
    [{"role": "tool", "content": "42"}, {"role": "user", "content": "So?"}],
    [{"role": "user", "content": "a"}, {"role": "system", "content": "late"}],
]
# in the words of jobs
SAMPLERS = [
    {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.3}, {"repetition_penalty": 1.4},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 0.8}, {"top_k": 1}, {"top_p": 1e-6},
]


def tokenizer():
    """A byte-level one, as Llama 3's and Qwen's are, that puts its first token before a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)])
    return made


def publish(name, folder):
    """Writes a model's config, and tensors.json with the names and shapes of its weights."""
    import transformers

    kind, settings = CONFIGS[name]
    config = getattr(transformers, kind)(vocab_size=340, **SIZES | copy.deepcopy(settings))
    return keep(transformers.AutoModelForCausalLM.from_config(config), folder)


def keep(model, folder):
    """Writes what a model says of itself and tensors.json; gives the names and shapes of its weights."""
    model.save_pretrained(folder / "saved")
    shapes = shapes_of(folder / "saved/model.safetensors")
    for file in ("config.json", "generation_config.json"):
        (folder / "saved" / file).rename(folder / file)
    shutil.rmtree(folder / "saved")
    lines = ",\n".join(f"  {json.dumps(t)}: {json.dumps(s)}" for t, s in shapes.items())
    (folder / "tensors.json").write_text('{\n "": {\n' + lines + "\n }\n}\n")
    return shapes


def fill(published, folder, shapes):
    """Puts the weights of the seed beside a copy of what was published, and gives them."""
    shutil.copytree(published, folder)
    weights = {tensor: values(SEED, "", tensor, shape) for tensor, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return weights


def turns(weight, heads):
    """The rows of queries or keys as llama.cpp has them: the two halves of a head in turns."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file, config, weights):
    """A Llama in F16, which holds the weights of weights.py exactly."""
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_chat_template(TEMPLATES["turns"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in sorted(weights.items()):
        part = name.split(".")[-2]
        weight = turns(weight, heads[part]) if part in heads else weight
        weight = weight.astype(np.float32 if weight.ndim == 1 else np.float16)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    stretched = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    writer.add_tensor("rope_freqs.weight", (plain / stretched).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_gguf(folder, weights):
    """Whether transformers reads the same weights out of it."""
    import transformers

    read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="llama.gguf", dtype=torch.float32).state_dict()
    for name, weight in weights.items():
        assert np.array_equal(read[name].numpy(), weight), f"{name} of llama.gguf is another one"


def follow(model, ids):
    """The tokens that follow greedily, the logits after the prompt and before the last of them, and how clear each choice was."""
    ids, logits, clear = list(ids), [], 1e9
    for _ in range(TOKENS):
        logits.append(model(torch.tensor([ids])).logits[0, -1])
        best = torch.topk(logits[-1], 2)
        clear = min(clear, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[-TOKENS:], torch.stack([logits[0], logits[-1]]).numpy().astype(np.float32), clear


def rendered(template, conversation):
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(
            [conversation], chat_template=template, add_generation_prompt=True, bos_token="<|begin|>", eos_token="<|end|>")
        return {"text": texts[0]}
    except Exception as error:
        return {"error": str(error)}


def probabilities(logits, ids, case):
    """What a token is drawn by."""
    from transformers.generation import logits_process as made

    steps = {
        "repetition_penalty": made.RepetitionPenaltyLogitsProcessor, "temperature": made.TemperatureLogitsWarper,
        "top_k": made.TopKLogitsWarper, "top_p": made.TopPLogitsWarper, "min_p": made.MinPLogitsWarper,
    }
    scores = torch.from_numpy(logits)[None] * 4  # so that some tokens are likelier than others
    for name, step in steps.items():
        if name in case:
            scores = step(case[name])(torch.tensor([ids]), scores)
    return torch.softmax(scores, -1)[0].numpy()


@torch.no_grad()
def make(work, goldens):
    import transformers

    into = goldens / "generation"
    shutil.rmtree(into, ignore_errors=True)
    (into / "tokenizer").mkdir(parents=True)
    words = tokenizer()
    words.save(str(into / "tokenizer/tokenizer.json"))
    write(into / "tokenizer/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "chat_template": TEMPLATES["turns"]})
    prompts = [{"text": text, "tokens": words.encode(text).ids} for text in PROMPTS]
    made, tokens = {}, {}
    for name in CONFIGS:
        (into / name).mkdir()
        shapes = publish(name, into / name)
        folder = work / f"generation-{name}"
        weights = fill(into / name, folder, shapes)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        if name == "llama":
            write_gguf(into / "llama.gguf", model.config, weights)
            check_gguf(into, weights)
        tokens[name] = []
        for index, prompt in enumerate(prompts):
            following, made[f"{name}.{index}"], clear = follow(model, prompt["tokens"])
            assert clear > 1e-4, f"{name}, {prompt['text']!r}: two tokens are {clear} apart; take another prompt"
            tokens[name].append(following)
    logits, seen = made["llama.0"][0], prompts[0]["tokens"]
    for index, case in enumerate(SAMPLERS):
        made[f"sampler.{index}"] = probabilities(logits, seen, case)
    chats = {name: {"template": template, "rendered": [rendered(template, talk) for talk in CONVERSATIONS]}
             for name, template in TEMPLATES.items()}
    write(into / "cases.json", {
        "seed": SEED, "prompts": prompts, "tokens": tokens, "conversations": CONVERSATIONS, "chats": chats, "samplers": SAMPLERS})
    save(made, into / "generation.safetensors")
    write(into / "versions.json", versions())


def versions():
    from importlib.metadata import version

    import jinja2
    import tokenizers
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
            "jinja2": jinja2.__version__, "gguf": version("gguf"), "numpy": np.__version__}
