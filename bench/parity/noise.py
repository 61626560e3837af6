"""What torch's CPU generator gives: torch.randn of several counts, drawn one after another from one generator."""
import torch
from safetensors.torch import save_file

SEEDS = [0, 7, 2**32 + 5, 2**63]
COUNTS = [1, 15, 16, 17, 100, 4 * 64 * 64]
# counts that follow each other: the odd one leaves half a pair behind, which only the next small draw takes
CHAIN = [3, 16, 1, 2, 20, 5, 1]
# of a long one its beginning, a piece from its middle, and its end
KEPT = 64


def kept(drawn):
    if len(drawn) <= 256:
        return drawn
    middle = len(drawn) // 2
    return torch.cat([drawn[:KEPT], drawn[middle : middle + KEPT], drawn[-KEPT:]])


def make(goldens):
    """Writes noise.safetensors: one tensor for each seed and count, named SEED/COUNT, and SEED/chain."""
    out = {}
    for seed in SEEDS:
        for count in COUNTS:
            out[f"{seed}/{count}"] = kept(torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed)))
        generator = torch.Generator("cpu").manual_seed(seed)
        out[f"{seed}/chain"] = torch.cat([torch.randn(count, generator=generator) for count in CHAIN])
    save_file(out, goldens / "noise.safetensors")
