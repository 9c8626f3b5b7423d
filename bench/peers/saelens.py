"""Trains SAELens's JumpReLU through its own SAETrainer; run by SAELens's interpreter.

    PYTHONPATH=. .peers/saelens/bin/python -m bench.peers.saelens JOB.json

Recipes; the setting is target_l0, for "step" l0_coefficient:

    docs-quadratic   as docs/training_saes.md of SAELens 6.54 has it: Gemma Scope 2's loss, and the
                     library's defaults for all that it does not mention
    step, quadratic  DeepMind's and Gemma Scope 2's loss with rows centred and scaled, starting
                     weights, thresholds, bandwidth, warm-up and decay of this project's own
                     JumpReLU; the learning rate as given
"""

from __future__ import annotations

import sae_lens
from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, SAETrainer
from sae_lens.config import SAETrainerConfig

from bench.peers.common import Feed, Job, read_job, write

NORM_BATCHES = 100  # of the library's estimate of the scale; 1,000 by default
PULL = 1e-3  # of the quadratic loss where E||x||^2 = 1; the documented 5 is for E||x||^2 = d_in
DOCUMENTED = {
    "normalize_activations": "expected_average_only_in",
    "jumprelu_bandwidth": 0.01,
    "jumprelu_init_threshold": 0.01,
}


def settings(job: Job, feed: Feed) -> tuple[dict, dict]:
    """Arguments of the SAE's config and of the trainer's."""
    quadratic = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": job.setting}
    if job.recipe == "docs-quadratic":
        return quadratic | {"l0_coefficient": 5.0} | DOCUMENTED, {}
    loss = {"l0_coefficient": job.setting}
    if job.recipe == "quadratic":
        loss = quadratic | {"l0_coefficient": PULL}
    c = feed.config
    trainer = {"lr_warm_up_steps": c.warmup, "lr_decay_steps": round(c.decay * job.steps)}
    return loss | {"jumprelu_bandwidth": feed.start(job)[1]}, trainer


def main() -> None:
    job = read_job()
    documented = job.recipe.startswith("docs-")
    feed = Feed(job, raw=documented, before=NORM_BATCHES if documented else 0)
    of_sae, of_trainer = settings(job, feed)
    if job.lr is not None:
        of_trainer["lr"] = job.lr
    sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(feed.d_in, job.d_sae, **of_sae))
    if not documented:
        ours, _ = feed.start(job)
        for name, value in (("W_enc", ours.W_enc.T), ("W_dec", ours.W_dec), ("b_enc", ours.b_enc),
                            ("b_dec", ours.b_dec), ("threshold", ours.theta)):  # fmt: skip
            getattr(sae, name).data.copy_(value)
    config = SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        n_batches_for_norm_estimate=NORM_BATCHES,
        **of_trainer,
    )
    config.lr_end = config.lr / 10  # its own runner's default; without one the trainer refuses
    trained = SAETrainer(config, sae, feed).fit()  # folds its own scale away at the end
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    facts = {
        "library": f"sae-lens {sae_lens.__version__}",
        "pre_encoder_bias": trained.cfg.apply_b_dec_to_input,
        "settings": of_sae | of_trainer | {"lr": config.lr},
    }
    write(job, feed, {name: getattr(trained, name) for name in names}, facts)


if __name__ == "__main__":
    main()
