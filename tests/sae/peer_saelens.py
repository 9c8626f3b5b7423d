"""Run by SAELens's own interpreter: what it makes of our folders, and folders of its own.

In: WORK, a folder with x.npy and ours/NAME/. Out: WORK/read.npz (NAME:f, NAME:x_hat), and
WORK/theirs/NAME/ with WORK/written.npz, their numbers on x.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class, get_sae_training_class

warnings.filterwarnings("ignore")
SCALE = 0.25  # what their training multiplied the input by


def numbers(sae, x):
    with torch.no_grad():
        return sae.encode(x).numpy(), sae(x).numpy()


def fill(sae, generator):
    with torch.no_grad():
        for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            if name in ("threshold", "topk_threshold"):
                noise = 0.5 + 0.2 * noise.abs()
            elif name == "W_dec":
                noise = noise * (0.5 + torch.rand(len(noise), 1, generator=generator))
            value.copy_(noise)
    return sae


def main(work: Path) -> None:
    x = torch.from_numpy(np.load(work / "x.npy"))
    read, written, generator = {}, {}, torch.Generator().manual_seed(0)
    for folder in sorted((work / "ours").iterdir()):
        sae = SAE.load_from_disk(folder)
        rows = x
        if sae.cfg.reshape_activations == "hook_z":
            rows = x.reshape(len(x), 2, -1)
        f, x_hat = numbers(sae, rows)
        read[f"{folder.name}:f"], read[f"{folder.name}:x_hat"] = f, x_hat.reshape(len(x), -1)
        about = {k: v for k, v in sae.cfg.metadata.to_dict().items() if isinstance(v, (str, int))}
        read[f"{folder.name}:metadata"] = np.array(json.dumps(about))

    shape = {"d_in": x.shape[1], "d_sae": 12}
    for name, architecture, more in (
        ("standard", "standard", {}),
        ("standard_no_b_dec", "standard", {"apply_b_dec_to_input": False}),
        ("jumprelu", "jumprelu", {}),
        ("gated", "gated", {}),
        ("topk", "topk", {"k": 3}),
        ("topk_by_norm", "topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
        ("layer_norm", "topk", {"k": 3, "normalize_activations": "layer_norm"}),
        ("constant_norm", "gated", {"normalize_activations": "constant_norm_rescale"}),
        ("transcoder", "transcoder", {"d_out": 4, "apply_b_dec_to_input": False}),
        ("skip", "skip_transcoder", {"d_out": 4, "apply_b_dec_to_input": False}),
        ("jump_skip", "jumprelu_skip_transcoder", {"d_out": 8, "apply_b_dec_to_input": False}),
    ):
        sae_class, config = get_sae_class(architecture)
        sae = fill(sae_class(config(**shape, **more)), generator)
        sae.save_model(work / "theirs" / name)
        written[f"{name}:f"], written[f"{name}:x_hat"] = numbers(sae, x)

    for name, more in (
        ("jumprelu", {}),
        ("batchtopk", {"k": 3}),
        ("topk", {"k": 3}),
        ("gated", {}),
        ("standard", {}),
    ):
        sae_class, config = get_sae_training_class(name)
        sae = fill(sae_class(config(**shape, **more)), generator)
        sae.save_inference_model(work / "theirs" / f"trained_{name}")
        inference = SAE.load_from_disk(work / "theirs" / f"trained_{name}")
        key = f"trained_{name}"
        written[f"{key}:f"], written[f"{key}:x_hat"] = numbers(inference, x)
        # A checkpoint of a run with a scaled input: weights in scaled units, the factor beside.
        sae.cfg.normalize_activations = "expected_average_only_in"
        checkpoint = work / "theirs" / f"checkpoint_{name}"
        sae.save_model(checkpoint)
        scaler = {"scaling_factor": SCALE, "has_whitening": False}
        (checkpoint / "activation_scaler.json").write_text(json.dumps(scaler))
        sae.fold_activation_norm_scaling_factor(SCALE)
        sae.save_inference_model(work / "folded" / name)
        f, x_hat = numbers(SAE.load_from_disk(work / "folded" / name), x)
        # They leave features in training units, except where they fold decoder norms as well.
        units = 1 if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else SCALE
        key = f"checkpoint_{name}"
        written[f"{key}:f"], written[f"{key}:x_hat"] = f / units, x_hat
    np.savez(work / "read.npz", **read)
    np.savez(work / "written.npz", **written)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
