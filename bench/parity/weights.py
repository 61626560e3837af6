"""Weights from a seed that any language makes exactly: integers from splitmix64, times a power of two.

So no weights lie in the repository: worker/src/model/golden.rs makes the same from the names and
shapes in goldens/MODEL/tensors.json.

Element i (from 0, row-major) of tensor NAME of COMPONENT:
    key   = FNV-1a (64 bits) of the text "SEED/COMPONENT/NAME"
    z     = splitmix64 of key at position i + 1
    unit  = (2 * (z >> 53) - 2047) / 2048        # 11 bits, within -1 and 1, never 0
    value = unit * scale, and + 1 for the weight of a norm (a weight with one dimension)
"""
import numpy as np

STEP = np.uint64(0x9E3779B97F4A7C15)


def fnv1a(text):
    """FNV-1a of 64 bits."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def scale(name, shape):
    """The power of two that keeps the variance of what passes through: at most sqrt(3 / inputs)."""
    if len(shape) == 1:
        return 2.0**-3
    if "embedding.weight" in name:
        return 2.0**-1
    inputs = int(np.prod(shape[1:]))
    power = 0
    while 4 ** (power) * 3 < inputs:
        power += 1
    # the text must be seen in the picture, and audio in the text, or a wrong one would go unnoticed
    return 2.0 ** ((2 if "attn2.to_" in name or "encoder_attn." in name else 0) - power)


def values(seed, component, name, shape):
    """The tensor's values as f32."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(f"{seed}/{component}/{name}")) + STEP * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (2 * (z >> np.uint64(53)).astype(np.int64) - 2047) / 2048
    norm = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    return (unit * scale(name, shape) + norm).astype(np.float32).reshape(shape)
