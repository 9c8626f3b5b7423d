"""Trains dictionary_learning's JumpReLU through its own trainSAE; run by its own interpreter.

    PYTHONPATH=. .peers/dictionary_learning/bin/python -m bench.peers.dictionary_learning JOB.json

The setting is target_l0. Recipes:

    demo    demo_config.py of adamkarvonen/dictionary_learning_demo: the library scales the rows
    scaled  rows centred and scaled, starting weights, thresholds, bandwidth, warm-up and decay of
            this project's own JumpReLU; the learning rate as given
"""

from __future__ import annotations

from importlib.metadata import version

from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.training import trainSAE

from bench.peers.common import Feed, Job, read_job, write

NORM_BATCHES = 102  # that the library draws for its estimate of the scale
DEMO = {"lr": 5e-5, "warmup_steps": 10, "sparsity_warmup_steps": 50}


def settings(job: Job, feed: Feed) -> dict:
    """Arguments of the trainer."""
    decay_start = int(job.steps * (0.8 if job.recipe == "demo" else 1 - feed.config.decay))
    given = {"target_l0": job.setting, "decay_start": decay_start}
    if job.lr is not None:
        given["lr"] = job.lr
    if job.recipe == "demo":
        return DEMO | given
    warmup = {"warmup_steps": feed.config.warmup, "sparsity_warmup_steps": feed.config.warmup}
    return given | warmup | {"bandwidth": feed.start(job)[1]}


def main() -> None:
    job = read_job()
    demo = job.recipe == "demo"
    feed = Feed(job, raw=demo, before=NORM_BATCHES if demo else 0)
    chosen, made = settings(job, feed), []

    def make(**config) -> JumpReluTrainer:
        """trainSAE makes the trainer by this and returns nothing, so it is kept here."""
        trainer = JumpReluTrainer(**config)
        if not demo:
            ours, _ = feed.start(job)
            for name, value in (("W_enc", ours.W_enc.T), ("W_dec", ours.W_dec),
                                ("b_enc", ours.b_enc), ("b_dec", ours.b_dec),
                                ("threshold", ours.theta)):  # fmt: skip
                getattr(trainer.ae, name).data.copy_(value)
        made.append(trainer)
        return trainer

    shape = {"activation_dim": feed.d_in, "dict_size": job.d_sae, "layer": 0, "lm_name": "none"}
    config = {"trainer": make, "steps": job.steps, "device": "cpu"} | shape | chosen
    trainSAE(
        feed, [config], steps=job.steps, device="cpu", normalize_activations=demo
    )  # folds its own scale away at the end
    ae = made[0].ae
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    facts = {
        "library": f"dictionary-learning {version('dictionary-learning')}",
        "pre_encoder_bias": ae.apply_b_dec_to_input,
        "settings": chosen | {"bandwidth": made[0].bandwidth},
    }
    write(job, feed, {name: getattr(ae, name) for name in names}, facts)


if __name__ == "__main__":
    main()
