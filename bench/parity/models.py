"""The tiny models of the goldens, as diffusers would publish them: their configs, their tokenizer, and their folders.

    python models.py MODEL SEED FOLDER    # one of them, with its weights; MODEL may be mid, for bench/images, or large, for memory
"""
import json
import pathlib
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from weights import values

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORDS = """a an the of in on at with and or photo painting drawing of style cat dog horse fox astronaut riding mars moon
city forest mountain river red green blue golden dark bright light soft blurry detailed cinematic portrait small large""".split()

SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def vocabulary():
    """Byte pairs until every word above is one token, in CLIP's order: bytes, bytes that end a word, merges, specials."""
    printable = [*range(33, 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    tokens = letters + [letter + "</w>" for letter in letters]
    words = [[*word[:-1], word[-1] + "</w>"] for word in dict.fromkeys(WORDS)]
    merges = []
    while True:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        pair = max(counts, key=lambda p: (counts[p], p))
        merges.append(pair)
        tokens.append("".join(pair))
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == pair:
                    word[at : at + 2] = ["".join(pair)]
                at += 1
    return list(dict.fromkeys(tokens)) + [BEGIN, END], merges


def encoder(tokens, act, layers, hidden=32, projection=None):
    """A CLIP text encoder."""
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model", "vocab_size": tokens, "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 77, "hidden_act": act,
        "layer_norm_eps": 1e-5, "projection_dim": projection or hidden, "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1, "pad_token_id": 1,
    }


def unet(**more):
    """A UNet, with the settings that all of them share."""
    return {
        "_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4, "out_channels": 4, "act_fn": "silu",
        "norm_num_groups": 8, "norm_eps": 1e-5, "flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False,
    } | more


def vae(scaling_factor, **more):
    """An autoencoder of eight pixels a latent."""
    return {
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4, "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "sample_size": 64, "scaling_factor": scaling_factor,
    } | more


SDXL_UNET = dict(
    block_out_channels=[16, 32, 32], layers_per_block=2, attention_head_dim=[2, 4, 8],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], mid_block_type="UNetMidBlock2DCrossAttn",
    transformer_layers_per_block=[1, 1, 2], cross_attention_dim=56, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=72,
)
SD_UNET = dict(
    block_out_channels=[16, 16, 32, 32], layers_per_block=1, cross_attention_dim=32,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
)
# 159 million parameters with the rest, in SDXL's shape; for bench/images, which draws at 256 by 256
MID_UNET = SDXL_UNET | dict(
    sample_size=32, block_out_channels=[96, 192, 384], norm_num_groups=32, attention_head_dim=[3, 6, 12],
    transformer_layers_per_block=[1, 2, 4], cross_attention_dim=1024, addition_time_embed_dim=128,
    projection_class_embeddings_input_dim=512 + 6 * 128,
)


# Stable Diffusion 1.5 in its own size: what memory it takes does not depend on what its weights are
LARGE_UNET = SD_UNET | dict(
    sample_size=64, block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, norm_num_groups=32, attention_head_dim=8,
    cross_attention_dim=768)


def index(pipeline, scheduler, xl, **more):
    """model_index.json."""
    parts = {
        "_class_name": pipeline, "_diffusers_version": "0.42.1", "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }
    if xl:
        parts |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                  "tokenizer_2": ["transformers", "CLIPTokenizer"], "force_zeros_for_empty_prompt": True}
    else:
        parts |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    return parts | more


def configs(name, tokens):
    """{file: JSON} of a model."""
    euler = SCALED | {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", "timestep_spacing": "leading",
                      "steps_offset": 1, "interpolation_type": "linear", "use_karras_sigmas": False, "trained_betas": None}
    ddim = SCALED | {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
                     "skip_prk_steps": True, "trained_betas": None}
    pndm = ddim | {"_class_name": "PNDMScheduler"}
    xl = dict(
        text_encoder=encoder(tokens, "quick_gelu", 2, 24), text_encoder_2=encoder(tokens, "gelu", 3, 32, 24),
        unet=unet(**SDXL_UNET), vae=vae(0.13025, force_upcast=True), scheduler=euler,
    )
    one = dict(text_encoder=encoder(tokens, "quick_gelu", 2), vae=vae(0.18215), scheduler=pndm)
    plain = unet(**SD_UNET, attention_head_dim=4)
    models = {
        "sdxl": xl | dict(model_index=index("StableDiffusionXLPipeline", "EulerDiscreteScheduler", True)),
        "turbo": xl | dict(
            model_index=index("StableDiffusionXLPipeline", "EulerAncestralDiscreteScheduler", True),
            scheduler=euler | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing",
                               "sample_max_value": 1.0, "clip_sample": False, "set_alpha_to_one": False},
            unet=unet(**SDXL_UNET | dict(
                block_out_channels=[16, 24], attention_head_dim=[2, 4], transformer_layers_per_block=[1, 2],
                down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"])),
        ),
        "sd15": one | dict(model_index=index("StableDiffusionPipeline", "PNDMScheduler", False), unet=plain),
        "sd21": one | dict(
            model_index=index("StableDiffusionPipeline", "DDIMScheduler", False),
            text_encoder=encoder(tokens, "gelu", 3), scheduler=ddim | {"prediction_type": "v_prediction"},
            unet=unet(**SD_UNET, attention_head_dim=[2, 2, 4, 4], use_linear_projection=True, upcast_attention=True,
                      dual_cross_attention=False, only_cross_attention=False),
        ),
        # reads with its second encoder alone, and is told a score of beauty instead of a target size
        "refiner": {part: own for part, own in xl.items() if part != "text_encoder"} | dict(
            model_index=index("StableDiffusionXLImg2ImgPipeline", "EulerDiscreteScheduler", True, text_encoder=[None, None],
                              tokenizer=[None, None], requires_aesthetics_score=True, force_zeros_for_empty_prompt=False),
            unet=unet(**SDXL_UNET | dict(cross_attention_dim=32, projection_class_embeddings_input_dim=24 + 5 * 8)),
        ),
        "xlinpaint": xl | dict(model_index=index("StableDiffusionXLInpaintPipeline", "EulerDiscreteScheduler", True),
                               unet=unet(**SDXL_UNET) | dict(in_channels=9)),
        "inpaint": one | dict(model_index=index("StableDiffusionInpaintPipeline", "PNDMScheduler", False),
                              unet=plain | dict(in_channels=9)),
        "large": one | dict(
            model_index=index("StableDiffusionPipeline", "PNDMScheduler", False), unet=unet(**SD_UNET) | LARGE_UNET,
            text_encoder=encoder(49408, "quick_gelu", 12, 768) | dict(intermediate_size=3072, num_attention_heads=12),
            vae=vae(0.18215, block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32, sample_size=512)),
        "mid": xl | dict(
            model_index=index("StableDiffusionXLPipeline", "EulerDiscreteScheduler", True),
            text_encoder=encoder(tokens, "quick_gelu", 6, 512), text_encoder_2=encoder(tokens, "gelu", 6, 512, 512),
            unet=unet(**MID_UNET),
            vae=vae(0.13025, force_upcast=True, block_out_channels=[32, 64, 128, 128], layers_per_block=2, norm_num_groups=32,
                    sample_size=256),
        ),
    }
    files = models[name]
    return {f"{part}/config.json" if part not in ("model_index", "scheduler") else
            {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}[part]: content
            for part, content in files.items()}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1) + "\n")


def publish(name, folder):
    """Writes all of a model but its weights, and gives the names and shapes of those, as diffusers' classes have them."""
    import diffusers
    import transformers

    tokens, merges = vocabulary()
    files = configs(name, len(tokens))
    parts = json.loads(json.dumps(files["model_index.json"]))
    for file, content in files.items():
        write(folder / file, content)
    for part in ("tokenizer", "tokenizer_2"):
        if parts.get(part, [None])[0]:
            special = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": "!" if part == "tokenizer_2" else END}
            write(folder / part / "vocab.json", {token: i for i, token in enumerate(tokens)})
            write(folder / part / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
            write(folder / part / "special_tokens_map.json", special)
            write(folder / part / "tokenizer_config.json",
                  {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True} | special)
    tensors = {}
    for part, (library, kind) in ((p, v) for p, v in parts.items() if isinstance(v, list)):
        if kind is None or part in ("scheduler", "tokenizer", "tokenizer_2"):
            continue
        config = files[f"{part}/config.json"]
        if library == "diffusers":
            model = getattr(diffusers, kind).from_config(config)
        else:
            model = getattr(transformers, kind)(transformers.CLIPTextConfig.from_dict(config))
        saved = folder / "saved"
        model.save_pretrained(saved)
        (file,) = saved.glob("*.safetensors")
        with safe_open(file, "np") as weights:
            tensors[part] = {tensor: weights.get_slice(tensor).get_shape() for tensor in weights.keys()}
        for left in saved.iterdir():
            left.unlink()
        saved.rmdir()
    return tensors


def fill(folder, tensors, seed):
    """Writes the weights."""
    for part, shapes in tensors.items():
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        made = {name: values(seed, part, name, shape) for name, shape in shapes.items()}
        save_file(made, folder / part / f"{stem}.safetensors", {"format": "pt"})
    return sum(int(np.prod(shape)) for shapes in tensors.values() for shape in shapes.values())


def main():
    name, seed, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    tensors = publish(name, folder)
    print(f"{folder}: {fill(folder, tensors, seed):,} parameters")


if __name__ == "__main__":
    main()
