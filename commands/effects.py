"""`effects`: what a feature does to the model, measured by taking it away where it is active."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 64  # features whose examples are read, measured and written together
# What a result depends on; device and batch move the last digits only.
ARGUMENTS = ("features", "per_feature", "kinds", "seed")


@dataclass(frozen=True)
class Effects:
    """Ablate features of a harvested SAE in their own examples, and score the SAE by it."""

    name: str  # of the SAE
    features: str = "all"  # all, or numbers and ranges, as 0:100,205
    per_feature: int = 5  # examples of each kind
    kinds: str = "top"  # of top,quantile,active,near_miss,random; active: a fair sample of fires
    seed: int = 0  # of the random directions
    batch: int | None = None  # contexts at once (default: what fits)
    replace: bool = False  # measure again what was measured with the same arguments
    device: str = "auto"
    workspace: Path = Path("workspace")


def run(args: Effects) -> int:
    import time
    from dataclasses import asdict

    from commands.feature_list import feature_list
    from commands.progress import track
    from data.effects_store import EffectsStore, kinds_named, newest_of, write_effects
    from data.errors import WorkbenchError
    from data.features_store import FeatureStore
    from data.schema import open_root
    from data.workspace import Workspace
    from interp.ablation import Ablation
    from interp.engine import open_engine

    if args.per_feature < 1:
        raise WorkbenchError(f"--per-feature {args.per_feature}: give 1 or more")
    kinds = kinds_named(args.kinds)
    workspace, root = Workspace.open(args.workspace), open_root()
    store = FeatureStore(root, workspace.feature_store(args.name))
    features = feature_list(args.features, store.n_features)
    made_from = _made_from(args, store)
    path = workspace.new_extra(args.name, "effects", _hash(made_from))
    # One that is damaged, or of an older program, is measured anew.
    if not args.replace and newest_of(root, [path], made_from["features_content"]) is not None:
        print(f"{path.name} was measured before; --replace measures again")
        _tell(EffectsStore(root, path).causal)
        return 0
    engine = open_engine(workspace.sae(args.name), args.device)
    _refuse_another_model(args.name, store, engine)
    ablation = Ablation(
        engine.lm, engine.sae, engine.site, engine.prefix, engine.mask, args.seed, args.batch
    )
    measurement = _Measurement(ablation, store, features, kinds, args.per_feature)
    began = time.monotonic()
    steps = track(
        measurement.blocks(),
        "ablating",
        lambda _: (measurement.done, len(features)),
        lambda _: f"{measurement.examples:,} examples",
    )

    def meta() -> dict:
        wall = round(time.monotonic() - began, 2)
        device = {"device": engine.lm.device, "batch": args.batch, "wall_s": wall}
        return {**made_from, **device, "causal": asdict(measurement.score())}

    content = write_effects(path, steps, meta)
    _tell(measurement.score())
    ms = 1000 * (time.monotonic() - began) / max(measurement.examples, 1)
    print(f"wrote {path}  content {content[:16]}  ({ms:.1f} ms an example)")
    return 0


class _Measurement:
    """The examples of some features, ablated block by block."""

    def __init__(
        self, ablation, store, features: list[int], kinds: tuple[str, ...], per_feature: int
    ) -> None:
        self.ablation, self.store, self.features = ablation, store, features
        self.kinds, self.per_feature = kinds, per_feature
        self.done = self.examples = 0  # features, examples
        self.of_features: list = []
        self.pairs: list[tuple[float, float]] = []  # attribution, delta loss

    def blocks(self):
        """Yields (ExampleEffects, FeatureEffects) of AT_ONCE features after the others."""
        from data.effects_store import stretches
        from interp.causal import feature_effect

        root, path = self.store.root, self.store.path
        for start in range(0, len(self.features), AT_ONCE):
            block = self.features[start : start + AT_ONCE]
            chosen = stretches(root, path, block, self.kinds, self.per_feature)
            effects = self.ablation.measure(chosen)
            of_feature = {feature: [] for feature in block}
            for effect in effects:
                of_feature[effect.feature].append(effect)
            means = [feature_effect(feature, some) for feature, some in of_feature.items()]
            self.of_features += means
            self.pairs += [(e.attribution, e.delta_loss) for e in effects if e.status == "ok"]
            self.done, self.examples = self.done + len(block), self.examples + len(effects)
            yield effects, means

    def score(self):
        import numpy as np

        from interp.causal import causal_score

        attribution, delta = np.array(self.pairs, dtype=np.float64).reshape(-1, 2).T
        return causal_score(self.of_features, attribution, delta)


def _made_from(args: Effects, store) -> dict:
    """Provenance. A store that was made from other weights than lie beside it does not open."""
    import platform
    from importlib.metadata import version

    meta = store.meta
    versions = {name: version(name) for name in ("torch", "transformers", "duckdb", "numpy")}
    return {
        "sae": args.name,
        "features_content": meta["content_hash"],
        "weights_sha256": meta["weights_sha256"],
        "lm_weights": meta["lm_weights"],
        "site": meta["site"],
        "arguments": {name: getattr(args, name) for name in ARGUMENTS},
        "seed": args.seed,
        "versions": {"python": platform.python_version(), **versions},
    }


def _hash(made_from: dict) -> str:
    """16 hex digits of what a result is determined by."""
    import hashlib
    import json

    keys = ("features_content", "weights_sha256", "lm_weights", "arguments")
    text = json.dumps({key: made_from[key] for key in keys}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refuse_another_model(name: str, store, engine) -> None:
    """StoreError if the store was harvested with another language model or at another site."""
    from data.errors import StoreError

    for key, ours in (("lm_weights", engine.lm.fingerprint), ("site", engine.site)):
        if store.meta[key] != ours:
            raise StoreError(
                f"{store.path} was harvested with {key} {store.meta[key]!r}, {name} has {ours!r}: "
                f"run: python run.py harvest {name}"
            )


def _tell(score) -> None:
    """Prints a CausalScore; what is absent is said to be."""

    def number(value: float | None) -> str:
        return "absent" if value is None else f"{value:.4g}"

    between = f"{number(score.low)} to {number(score.high)}"
    rows = [
        ("measured", f"{score.measured:,} of {score.features:,} features",
         f"{score.examples:,} examples"),
        ("causal", number(score.share),
         f"share of features that do more than random directions (95 %: {between})"),
        ("kl", number(score.kl), "KL(original || ablated), nats a token, mean over features"),
        ("random_kl", number(score.random_kl), "the same for random directions of their size"),
        ("delta_loss", number(score.delta_loss), "loss added by ablation, nats a token"),
        ("pearson", number(score.pearson), "attribution by gradient with measured delta loss"),
        ("spearman", number(score.spearman), "the same by ranks"),
    ]  # fmt: skip
    for name, value, meaning in rows:
        print(f"{name:<12}{value:<24}{meaning}")
