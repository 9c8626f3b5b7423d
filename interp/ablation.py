"""What a feature does to the model, found by taking it away; a gradient's estimate beside it.

In:  a language model, an SAE at one of its sites, stretches of text with one feature each.
Out: an `ExampleEffect` each: change in loss and KL by position, the tokens whose logits the feature
     raises and lowers, the attribution, the KL of a random direction in the feature's place.

1. The model runs on the example's own context (prefix and ids). f_i is the SAE's own code of the
   true activation x at the site.
2. At every kept position where f_i > 0, x becomes x - f_i d_i (d_i times the row's own size with
   token_norm). Whatever else x holds stays, the SAE's error included: the SAE is not spliced in.
3. Loss and KL(original || ablated) at the scored positions from the first ablated one on. Scored
   is as in interp/fidelity.py: a kept token whose next token is kept too.
4. Attribution: sum of -f_i d_i . dL/dx over the ablated positions, L the summed loss, over the
   number of those scored positions: what delta_loss would be were the model linear.
5. Random: x - |f_i d_i| u at the same positions, u a seeded isotropic unit vector.

Own definitions where no paper gives one; "Ablation" in docs/METHODS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from data.errors import ModelError, WorkbenchError
from data.lm import LanguageModel
from data.records import ExampleEffect, Stretch
from data.tokens import ContextBatch, MaskRule
from interp.splice import prefix_once
from sae.models import SAE

TOP = 10  # tokens raised and lowered
TOKENS_AT_ONCE = 4_096  # in contexts side by side
LOGITS_AT_ONCE = {"cpu": 2**24, "cuda": 2**28}  # elements of one [batch, context, vocabulary]
ROWS_AT_ONCE = 2**22  # elements of one [rows, vocabulary] in comparing, and of codes [rows, d_sae]


@dataclass(frozen=True)
class Joined:
    """A language model and an SAE at one of its sites, with the contexts and masks of training."""

    lm: LanguageModel
    sae: SAE
    site: str
    prefix: tuple[int, ...]
    mask: MaskRule

    def __post_init__(self) -> None:
        if self.sae.is_transcoder:
            raise ModelError(
                "a transcoder's features cannot be ablated or steered: they write to another place "
                "than they are read from; use an SAE instead"
            )


@dataclass(frozen=True)
class Ablation(Joined):
    """The two, ready to lose one feature at a time."""

    seed: int = 0  # of the random directions
    batch: int | None = None  # contexts at once; None: as memory allows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is not None and self.batch < 1:
            raise WorkbenchError(f"--batch {self.batch}: give 1 or more, or leave it out")

    def measure(self, stretches: Sequence[Stretch]) -> list[ExampleEffect]:
        """One effect a stretch, in their order. Contexts of like length run together."""
        found: dict[int, ExampleEffect] = {}
        for numbers in self._batches([len(s.ids) for s in stretches]):
            effects = self._batch([stretches[i] for i in numbers])
            found |= dict(zip(numbers, effects, strict=True))
        return [found[i] for i in range(len(stretches))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        vocabulary = self.lm.readout().head.shape[0]
        elements = LOGITS_AT_ONCE["cpu" if self.lm.device == "cpu" else "cuda"]
        while order:
            width = len(self.prefix) + lengths[order[0]]
            most = min(TOKENS_AT_ONCE, elements // vocabulary) // width
            at_once = self.batch or max(most, 1)
            yield order[:at_once]
            order = order[at_once:]

    # Not in inference mode, wherever the caller is: its tensors have no gradients.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _batch(self, stretches: Sequence[Stretch]) -> list[ExampleEffect]:
        ids, keep = self._contexts(stretches)
        features = torch.tensor([s.feature for s in stretches], device=ids.device)
        with prefix_once(self.lm, self.site):
            x, original = self._original(ids)
            if self.mask.norm_limit is not None:
                keep &= x.float().norm(dim=-1) <= self.mask.norm_limit
            f = self._activations(x, keep, features)
            if not bool((f > 0).any()):
                return [_without_numbers(s, "silent") for s in stretches]
            scored = keep & keep.roll(-1, dims=1)
            scored[:, -1] = False
            after_first = (f > 0).cumsum(dim=1) > 0
            pairs = (scored & after_first).nonzero()  # [n_pairs, 2]: example, column
            p, gradient = _gradient(original, x, ids, pairs)
            original = original.detach()
            written = self._written(x, f, features)
            ablated = self._run(ids, written)
            random = self._run(ids, self._random_like(written, stretches))
        attribution = -(written * gradient.float()).flatten(1).double().sum(dim=1)
        numbers = _compare(p, original, (ablated, random), ids, pairs)
        return self._effects(stretches, f, pairs, numbers, attribution, original, ablated)

    def _effects(
        self, stretches: Sequence[Stretch], f: Tensor, pairs: Tensor, numbers: Tensor,
        attribution: Tensor, original: Tensor, ablated: Tensor,
    ) -> list[ExampleEffect]:  # fmt: skip
        """The records; numbers [3, n_pairs] of _compare."""
        numbers = numbers.double().cpu().numpy()
        rows, columns = pairs.cpu().numpy().T
        bounds = np.searchsorted(rows, np.arange(len(stretches) + 1))
        first, peaks = (f > 0).int().argmax(dim=1), self._peaks(f, stretches)
        start = len(self.prefix)
        at_peaks = self._at_peaks(original, ablated, peaks)
        per_example = [first - start, peaks - start, attribution, *at_peaks]
        per_example = zip(*(column.tolist() for column in per_example), strict=True)
        active = (f > 0).any(dim=1).tolist()
        effects = []
        for i, (stretch, own) in enumerate(zip(stretches, per_example, strict=True)):
            here = slice(bounds[i], bounds[i + 1])
            measured = _effect(stretch, columns[here] - start, numbers[:, here], *own)
            effects.append(measured if active[i] else _without_numbers(stretch, "silent"))
        return effects

    def _contexts(self, stretches: Sequence[Stretch]) -> tuple[Tensor, Tensor]:
        """ids and which of them the mask keeps, [n, context], padded on the right."""
        start = len(self.prefix)
        width = start + max(len(s.ids) for s in stretches)
        ids = np.full((len(stretches), width), self.prefix[0], dtype=np.int32)
        ids[:, :start] = self.prefix
        doc = np.full(ids.shape, -1, dtype=np.int32)
        for row, stretch in enumerate(stretches):
            ids[row, start : start + len(stretch.ids)] = stretch.ids
            doc[row, start : start + len(stretch.ids)] = 0
        keep = self.mask.keep_ids(ContextBatch(ids, doc, doc))
        device = self.lm.device
        return torch.from_numpy(ids.astype(np.int64)).to(device), torch.from_numpy(keep).to(device)

    def _original(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """x at the site as a leaf [n, context, d_in], and the logits with a graph back to it."""
        held: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            held.append(x.detach().clone().requires_grad_())
            return held[-1]

        with torch.enable_grad():
            logits = self.lm.logits_replacing(ids, self.site, first_run(leaf))
        return held[0], logits

    def _run(self, ids: Tensor, less: Tensor) -> Tensor:
        """Logits with `less` [n, context, d_in] taken from the activation."""
        change = first_run(lambda x: (x.float() - less).to(x.dtype))
        return self.lm.logits_replacing(ids, self.site, change)

    def _activations(self, x: Tensor, keep: Tensor, features: Tensor) -> Tensor:
        """f [n, context] of each example's own feature; 0 where it is silent or not kept."""
        rows = x.detach()[keep].to(self.sae.W_enc)
        own = features[:, None].expand_as(keep)[keep][:, None]
        at_once = max(ROWS_AT_ONCE // self.sae.d_sae, 1)
        f = torch.zeros(keep.shape, device=x.device)
        parts = zip(rows.split(at_once), own.split(at_once), strict=True)
        f[keep] = torch.cat([self.sae.encode(part).gather(1, i)[:, 0] for part, i in parts]).float()
        return f

    def _written(self, x: Tensor, f: Tensor, features: Tensor) -> Tensor:
        """What each example's feature adds to the reconstruction, [n, context, d_in] float32."""
        size = self.sae.token_frame(x.detach().to(self.sae.W_enc))[2]
        return (f[..., None] * size * self.sae.W_dec[features][:, None]).float()

    def _random_like(self, written: Tensor, stretches: Sequence[Stretch]) -> Tensor:
        """One random direction an example, as long at each position as `written` is there.

        Seeded by feature and place, so that it does not depend on what is measured beside it.
        """
        directions = np.stack([
            np.random.default_rng([self.seed, s.feature, s.doc, s.start, s.peak])
            .standard_normal(written.shape[-1], dtype=np.float32)
            for s in stretches
        ])  # fmt: skip
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        sizes = written.norm(dim=-1, keepdim=True)
        return sizes * torch.from_numpy(directions).to(written)[:, None]

    def _peaks(self, f: Tensor, stretches: Sequence[Stretch]) -> Tensor:
        """Column of each example's peak if its feature is active there, else of its strongest."""
        given = torch.tensor([s.peak + len(self.prefix) for s in stretches], device=f.device)
        active = f.gather(1, given[:, None])[:, 0] > 0
        return torch.where(active, given, f.argmax(dim=1))

    def _at_peaks(self, original: Tensor, ablated: Tensor, peaks: Tensor) -> Iterator[Tensor]:
        """KL at the peaks [n]; ids and values [n, TOP] of the tokens whose logits the feature
        raises most there, and of those it lowers most, centred over the tokens there are."""
        n = torch.arange(len(peaks), device=peaks.device)
        shift = ablated[n, peaks] - original[n, peaks]
        yield _shifted(original[n, peaks].softmax(dim=-1), shift.clone())[0]
        added = -shift[:, : len(self.lm.tokenizer)]
        added = added - added.mean(dim=1, keepdim=True)
        for largest in (True, False):
            found = added.topk(min(TOP, added.shape[1]), largest=largest)
            yield from (found.indices, found.values)


def _gradient(logits: Tensor, x: Tensor, ids: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The model's probabilities at pairs [n, 2] of (example, column), [n, vocabulary]; and dL/dx
    [n, context, d_in], L the loss summed over them: its slope in the logits is p - one-hot."""
    row, column = pairs.T
    with torch.no_grad():
        p = logits[row, column].softmax(dim=-1)
        slope = torch.zeros_like(logits)
        slope[row, column] = p
        slope[row, column, ids[row, column + 1]] -= 1
    return p, torch.autograd.grad(logits, x, slope)[0]


def _shifted(p: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) [n] of q in proportion to p e^d, and log q - log p; p and d are [n, vocabulary].
    Overwrites d.

    With d centred, KL = log sum p e^d - sum p d is no difference of large numbers, so float32 is
    enough near 0; the last term, and the sum of p, are what rounding left of 0 and 1.
    """
    total = p.sum(dim=-1)
    d -= (torch.linalg.vecdot(p, d) / total)[:, None]
    log_z = (torch.linalg.vecdot(p, d.expm1()) / total).log1p()
    far = d.amax(dim=-1) > 40  # where p e^d may overflow float32
    if bool(far.any()):
        log_z[far] = (p[far].double().log() + d[far].double()).logsumexp(dim=-1).float()
    kl = (log_z - torch.linalg.vecdot(p, d) / total).clamp_min(0)
    return kl, d.sub_(log_z[:, None])


def _compare(
    p: Tensor, original: Tensor, changed: tuple[Tensor, Tensor], ids: Tensor, pairs: Tensor
) -> Tensor:
    """[3, n]: loss added and KL by the first of `changed`, KL by the second, at each (example,
    column) of pairs [n, 2], where the model's probabilities are p [n, vocabulary]."""
    columns = [torch.zeros(3, 0, device=ids.device)]
    at_once = max(ROWS_AT_ONCE // original.shape[-1], 1)
    for of_p, part in zip(p.split(at_once), pairs.split(at_once), strict=True):
        row, column = part.T
        before = original[row, column]
        kl, added = _shifted(of_p, changed[0][row, column] - before)
        loss = -added.gather(1, ids[row, column + 1][:, None])[:, 0]
        random_kl, _ = _shifted(of_p, changed[1][row, column] - before)
        columns.append(torch.stack([loss, kl, random_kl]))
    return torch.cat(columns, dim=1)


def first_run(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor | None]:
    """`change` when it is called first, then nothing: a shared block's first run is the site."""
    ran: list[bool] = []

    def reader(x: Tensor) -> Tensor | None:
        ran.append(True)
        return change(x) if len(ran) == 1 else None

    return reader


def _effect(
    stretch: Stretch, scored: np.ndarray, numbers: np.ndarray, first: int, peak: int,
    attribution: float, peak_kl: float, up_ids: list[int], up_logits: list[float],
    down_ids: list[int], down_logits: list[float],
) -> ExampleEffect:  # fmt: skip
    """numbers [3, n]: delta loss, KL and random KL at the n positions `scored`; attribution: of
    their summed loss."""
    n = len(scored)
    delta, kl, random_kl = numbers.mean(axis=1).tolist() if n else (None, None, None)
    return ExampleEffect(
        **_key(stretch), status="ok" if n else "not_scored", first=first, peak=peak,
        delta_loss=delta, kl=kl, peak_kl=peak_kl, attribution=attribution / n if n else None,
        random_kl=random_kl, scored=tuple(scored.tolist()),
        delta_losses=tuple(numbers[0].tolist()), kls=tuple(numbers[1].tolist()),
        up_ids=tuple(up_ids), up_logits=tuple(up_logits), down_ids=tuple(down_ids),
        down_logits=tuple(down_logits),
    )  # fmt: skip


def _without_numbers(stretch: Stretch, status: str) -> ExampleEffect:
    absent = {
        field.name: () if field.type.startswith("tuple") else None
        for field in fields(ExampleEffect)
    }
    return ExampleEffect(**{**absent, **_key(stretch), "status": status})


def _key(stretch: Stretch) -> dict:
    names = ("feature", "kind", "part", "rank", "doc", "start")
    return {name: getattr(stretch, name) for name in names}
