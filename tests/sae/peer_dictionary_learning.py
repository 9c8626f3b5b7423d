"""Run by dictionary_learning's own interpreter: what it makes of our files, and its own files.

In: WORK, a folder with x.npy and ours/NAME/. Out: WORK/read.npz (NAME:f, NAME:x_hat), and
WORK/theirs/NAME/ with WORK/written.npz, their numbers on x.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.filterwarnings("ignore")
from dictionary_learning import dictionary  # noqa: E402
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE  # noqa: E402
from dictionary_learning.trainers.matryoshka_batch_top_k import (  # noqa: E402
    MatryoshkaBatchTopKSAE,
)
from dictionary_learning.trainers.top_k import AutoEncoderTopK  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402

D_SAE, K = 12, 3


def numbers(sae, x):
    with torch.no_grad():
        f = sae.encode(x)
        return f.numpy(), sae.decode(f).numpy()


def fill(sae, generator):
    with torch.no_grad():
        for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
            if name == "threshold":
                value.copy_(0.5 + 0.2 * torch.rand(value.shape, generator=generator))
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
    return sae


def main(work: Path) -> None:
    x = torch.from_numpy(np.load(work / "x.npy"))
    d_in = x.shape[1]
    read, written, generator = {}, {}, torch.Generator().manual_seed(0)
    for folder in sorted((work / "ours").iterdir()):
        sae, _ = load_dictionary(str(folder), "cpu")
        read[f"{folder.name}:f"], read[f"{folder.name}:x_hat"] = numbers(sae, x)
        read[f"{folder.name}:class"] = np.array(type(sae).__name__)
    for sae in (
        dictionary.AutoEncoder(d_in, D_SAE),
        dictionary.AutoEncoderNew(d_in, D_SAE),
        dictionary.GatedAutoEncoder(d_in, D_SAE),
        dictionary.JumpReluAutoEncoder(d_in, D_SAE),
        AutoEncoderTopK(d_in, D_SAE, K),
        BatchTopKSAE(d_in, D_SAE, K),
        MatryoshkaBatchTopKSAE(d_in, D_SAE, K, [4, 8]),
    ):
        name = type(sae).__name__
        folder = work / "theirs" / name
        folder.mkdir(parents=True)
        torch.save(fill(sae, generator).state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": name,
            "lm_name": "EleutherAI/pythia-70m-deduped",
            "layer": 3,
            "submodule_name": "resid_post_layer_3",
            "activation_dim": d_in,
            "dict_size": D_SAE,
            "k": K,
        }
        config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(config))
        loaded, _ = load_dictionary(str(folder), "cpu")
        written[f"{name}:f"], written[f"{name}:x_hat"] = numbers(loaded, x)
    np.savez(work / "read.npz", **read)
    np.savez(work / "written.npz", **written)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
