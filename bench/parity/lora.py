"""LoRA adapters in the ways that they are published, and what diffusers makes with each of them."""
import json
import shutil

import numpy as np
from safetensors.numpy import save_file

import pictures
from weights import values

RANK = 4
UNET = ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"]
ENCODER = ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1"]


def cases():
    """Each: name, model, how its keys are written, what is said of its scale, and whether text encoders have a part."""
    for model, prefixes in (("sdxl", ["te1", "te2"]), ("sd15", ["te"])):
        yield f"{model}-kohya", model, prefixes, {"alpha": 1.0}
        yield f"{model}-plain", model, None, {}
        yield f"{model}-settings", model, None, {"lora_alpha": 2, "alpha_pattern": {"attn2.to_k": 8}}
        yield f"{model}-rooted", model, None, {"lora_alpha": 1, "use_rslora": True}


def layers(tensors, kohya):
    """(component, layer, shape of its weight) of an adapter."""
    # diffusers 0.42.1 renames the attention of kohya's text encoders to names that transformers 5 does not know, and drops it
    encoder = ENCODER[1:] if kohya else ENCODER
    for component in tensors:
        for layer in UNET if component == "unet" else encoder if component.startswith("text_encoder") else []:
            # transformers 5 saves the layers of CLIPTextModel without their first word
            shape = tensors[component].get(f"{layer}.weight") or tensors[component][f"{layer.removeprefix('text_model.')}.weight"]
            yield component, layer, shape


def adapter(tensors, kohya, said):
    """{key: array} of a file, and its header."""
    file, header = {}, {}
    for component, layer, (outputs, inputs) in layers(tensors, kohya):
        down, up = values(0, "lora", f"{layer}.down", (RANK, inputs)), values(0, "lora", f"{layer}.up", (outputs, RANK))
        up = up / 4
        if kohya:
            prefix = "unet" if component == "unet" else kohya[-1] if component == "text_encoder_2" else kohya[0]
            key, ends = f"lora_{prefix}_{layer.replace('.', '_')}", ["lora_down", "lora_up"]
            file[f"{key}.alpha"] = np.array(said["alpha"], np.float32)
        else:
            key, ends = f"{component}.{layer}", ["lora_A", "lora_B"]
            # ends of names: transformers 5 has some without their first word
            targets = [l.removeprefix("text_model.") for c, l, _ in layers(tensors, kohya) if c == component]
            settings = {"r": RANK, "target_modules": targets} | said
            header |= {f"{component}.{key}": value for key, value in settings.items()} if said else {}
        file |= {f"{key}.{ends[0]}.weight": down, f"{key}.{ends[1]}.weight": up}
    return file, {"lora_adapter_metadata": json.dumps(header)} if header else {}


def make(work, goldens, shapes):
    """Writes lora/*.safetensors, lora/*.png and lora.json."""
    into = goldens / "lora"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    listed = []
    for name, model, kohya, said in cases():
        file, header = adapter(shapes[model], kohya, said)
        save_file(file, into / f"{name}.safetensors", {"format": "pt"} | header)
        job = {"prompt": pictures.PROMPT, "width": 64, "height": 64, "steps": 8, "guidance_scale": 5.0, "seed": 7}
        pipe = pictures.pipeline(work / f"{model}-1", job)
        plain = pictures.run(pipe, job, goldens)[0]
        pipe.load_lora_weights(into, weight_name=f"{name}.safetensors")
        picture = pictures.run(pipe, job, goldens)[0]
        apart = np.abs(np.asarray(picture).astype(int) - np.asarray(plain).astype(int)).max()
        if apart < 20:
            raise SystemExit(f"{name}: the adapter changes only {apart} levels; make it stronger")
        picture.save(into / f"{name}.png", optimize=True)
        listed.append({"name": name, "model": model, "input": job})
        print(f"{name}: {apart} levels from the picture without it")
    (goldens / "lora.json").write_text("[\n" + ",\n".join(" " + json.dumps(case) for case in listed) + "\n]\n")
