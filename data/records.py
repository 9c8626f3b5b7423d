"""The nouns that pass between rooms, as frozen dataclasses. Nothing here computes.

Flow: Document -> Context -> activations -> FeatureStats, Example -> rows -> page.
Absent values are None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text, as it came from its source."""

    name: str  # path inside the source, or "file:row"
    text: str


@dataclass(frozen=True)
class DocumentRow:
    """One document of a corpus, as the stores keep it (its token ids apart)."""

    doc: int  # running number in the corpus
    name: str
    split: str  # train | heldout
    use: str  # explain | calibrate | score
    min_hash: int  # smallest 64-bit shingle hash; decides both splits
    n_tokens: int


@dataclass(frozen=True)
class FeatureStats:
    """What one pass over the corpus says of a feature. Activations are raw, unnormalised."""

    feature: int
    fires: int  # tokens on which it is active
    density: float  # fires / tokens
    total: float  # sum of activations
    mean: float | None  # mean of the non-zero activations; None if it never fires
    max: float | None
    theta: float  # threshold; 0 for architectures without one
    peak_token: int | None  # commonest token among the uniformly sampled active positions
    peak_share: float | None  # its share of that sample
    hist_counts: tuple[int, ...]  # non-zero activations between the store's hist_edges, ends open
    pre_counts: tuple[int, ...]  # pre-activation / pre_unit between pre_edges, ends open
    pre_unit: float  # what pre-activations were divided by: theta if positive
    top_ids: tuple[int, ...]  # tokens whose logits W_dec raises most
    top_logits: tuple[float, ...]
    bottom_ids: tuple[int, ...]
    bottom_logits: tuple[float, ...]


@dataclass(frozen=True)
class Example:
    """One stretch of text and a feature's activation on each of its tokens.

    `ids` and `values` cover the whole context the model saw, without its prefix (BOS), so any
    example can be recomputed alone.
    """

    feature: int
    kind: str  # top | active | random
    rank: int
    doc: int
    document: str  # the document's name
    use: str  # explain | calibrate | score
    start: int  # position in the document of ids[0]
    peak: int  # index into ids of the chosen token (the largest activation for `top`)
    max: float  # activation at ids[peak]
    inclusion: float  # probability with which sampling took it; 1 for `top`
    ids: tuple[int, ...]
    values: tuple[float, ...]  # activation per token, 0 where silent


@dataclass(frozen=True)
class Explanation:
    """What a judge says a feature stands for. status: ok | failed (reason says why)."""

    feature: int
    judge: str
    text: str
    payload: dict  # what the judge needs to simulate; JSON
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Score:
    """How well an explanation predicts held-back activations. status: ok | failed | not_run.

    `value` is None unless status is ok: a failure is never a zero.
    """

    feature: int
    method: str  # simulate | detect
    value: float | None
    low: float | None  # bootstrap interval over documents
    high: float | None
    n_tokens: int
    n_documents: int
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class FeatureFilter:
    """What the feature list shows. None means: no bound."""

    text: str = ""  # in the label or the top token, case-insensitive
    feature: int | None = None
    density_min: float | None = None
    density_max: float | None = None
    max_min: float | None = None
    score_min: float | None = None
    alive: bool | None = None
    sort: str = "feature"  # a column of FeatureRow
    descending: bool = False
    page: int = 1
    page_size: int = 50


@dataclass(frozen=True)
class FeatureRow:
    """One line of the feature list."""

    feature: int
    label: str | None
    density: float
    fires: int
    mean: float | None
    max: float | None
    theta: float
    score: float | None
    score_low: float | None
    score_high: float | None
    peak_token: bytes | None
    peak_share: float | None
    top_logit_token: bytes | None


@dataclass(frozen=True)
class LiveToken:
    """One token of a live prompt and the features active on it, strongest first."""

    bytes: bytes
    special: bool
    kept: bool  # False where the masks of training leave the token out
    features: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class LiveCode:
    """A live prompt through model and SAE."""

    tokens: tuple[LiveToken, ...]
    truncated: bool  # the text was longer than one context
    ms: float
