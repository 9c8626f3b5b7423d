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
    """What one pass over the corpus says of a feature. Activations are raw, unnormalised.

    Moments and quantiles are of the non-zero activations; None where there is nothing to measure.
    """

    feature: int
    fires: int  # tokens on which it is active
    density: float  # fires / tokens
    total: float  # sum of activations
    total_squares: float
    mean: float | None
    sd: float | None
    skew: float | None
    kurtosis: float | None  # excess over the normal distribution's
    max: float | None
    q10: float | None
    q50: float | None
    q90: float | None
    q99: float | None
    quantile_error: float | None  # the four are right within so much, relative to themselves
    theta: float  # threshold; 0 for architectures without one
    first_doc: int | None
    last_doc: int | None
    peak_token: int | None  # commonest token among the uniformly sampled active positions
    peak_share: float | None  # its share of the fires, estimated from the sample
    dead: bool
    rare: bool
    dense_1: bool  # active on more than 1% of the tokens
    dense_10: bool
    single_token: bool
    position_bound: bool
    outlier_bound: bool
    outlier_share: float | None  # share of its fires on tokens of unusual norm
    top_logit: int | None  # the token whose logit it raises most
    hist_first: int  # bin of the store's hist_edges that hist_counts begins with
    hist_counts: tuple[int, ...]  # non-zero activations
    pre_counts: tuple[int, ...]  # pre-activation / pre_unit between pre_edges, ends open
    pre_unit: float  # what pre-activations were divided by: theta if positive
    positions: tuple[int, ...]  # fires between the store's position_edges


@dataclass(frozen=True)
class LogitEffect:
    """What one unit of a feature adds to the logits, centred over the vocabulary."""

    feature: int
    scaled: bool  # through the final norm's own scale, or through the unembedding alone
    top_ids: tuple[int, ...]  # tokens raised most
    top_logits: tuple[float, ...]
    bottom_ids: tuple[int, ...]
    bottom_logits: tuple[float, ...]
    sd: float  # over the vocabulary
    skew: float
    kurtosis: float  # excess over the normal distribution's
    low: float  # counts: even bins from low to high
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One stretch of text and a feature's activation on each of its tokens.

    `ids` and `values` cover the whole context the model saw, without its prefix (BOS), so any
    example can be recomputed alone.
    """

    feature: int
    kind: str  # top | quantile | active | near_miss | random
    part: str  # band of a quantile (0.99-1, ...), under | token of a near miss, or ""
    rank: int
    doc: int
    document: str  # the document's name
    use: str  # explain | calibrate | score
    start: int  # position in the document of ids[0]
    peak: int  # index into ids of the chosen token (the largest activation for `top`)
    max: float  # activation at ids[peak]
    pre: float  # pre-activation there
    inclusion: float | None  # probability with which sampling took it; None: not a sample
    copies: int  # tokens of the corpus with the same text around them that it stands for
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
    """How well an explanation predicts held-back activations, in a run's first method.

    status: ok | constant (a constant prediction has no correlation) | withheld (too much failed) |
    failed | not_run. `value` is None unless status is ok: a failure is never a zero.
    """

    feature: int
    method: str  # simulate | estimate | detect | fuzz | intruder
    value: float | None
    low: float | None  # 95 % bootstrap interval
    high: float | None
    n_tokens: int
    n_documents: int
    status: str = "ok"
    reason: str = ""
    n_ok: int | None = None  # items that were answered
    n: int | None = None  # items that were asked
    wanted: int | None = None  # items that the plan asks for


# Flags that the list is filtered by; `dead` is FeatureFilter.alive.
FLAGS = ("rare", "dense_1", "dense_10", "single_token", "position_bound", "outlier_bound")


@dataclass(frozen=True)
class FeatureFilter:
    """What the feature list shows, and how. None and "": no bound.

    Texts are found whatever their capitals. A token is found by a part of it, or as a whole if it
    stands in double quotes: `" the"`.
    """

    text: str = ""  # in a label, a judge's or a person's, or in the peak token
    feature: int | None = None
    density_min: float | None = None
    density_max: float | None = None
    max_min: float | None = None
    max_max: float | None = None
    score_min: float | None = None
    score_max: float | None = None
    alive: bool | None = None
    rare: bool | None = None  # True: only such features; False: only others
    dense_1: bool | None = None
    dense_10: bool | None = None
    single_token: bool | None = None
    position_bound: bool | None = None
    outlier_bound: bool | None = None
    example: str = ""  # in the text around the peaks of its strongest examples
    peak: str = ""  # its peak token
    raised: str = ""  # one of the tokens whose logits it raises most
    tag: str = ""
    bookmarked: bool | None = None
    sort: str = "feature"  # a column of FeatureRow, or of data/list_store.py's MARKED
    descending: bool = False
    page: int = 1
    page_size: int = 50
    columns: tuple[str, ...] = ()  # of the table; (): the usual ones
    plot: str = "max"  # density is drawn against it: max | score | none


@dataclass(frozen=True)
class FeatureRow:
    """One line of the feature list: what it can show, and sort by. Columns as in FeatureStats."""

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
    total: float
    total_squares: float
    sd: float | None
    skew: float | None
    kurtosis: float | None
    q10: float | None
    q50: float | None
    q90: float | None
    q99: float | None
    quantile_error: float | None
    first_doc: int | None
    last_doc: int | None
    outlier_share: float | None
    dead: bool
    rare: bool
    dense_1: bool
    dense_10: bool
    single_token: bool
    position_bound: bool
    outlier_bound: bool


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


@dataclass(frozen=True)
class Stretch:
    """Where an example stands and what it says, without its activations."""

    feature: int
    kind: str
    part: str
    rank: int
    doc: int
    start: int  # position in the document of ids[0]
    peak: int  # index into ids of the chosen token
    ids: tuple[int, ...]  # the whole context without its prefix


@dataclass(frozen=True)
class ExampleEffect:
    """What changes when one feature is ablated in one example. Losses and KL in nats.

    status: ok; silent: the feature is active nowhere in the context; not_scored: no scored token
    follows. Positions count from `start`. A position's loss is that of predicting the next token.
    """

    feature: int
    kind: str
    part: str
    rank: int
    doc: int
    start: int
    status: str
    first: int | None  # the first ablated position
    peak: int | None  # the example's own peak if the feature is active there, else its strongest
    delta_loss: float | None  # loss(ablated) - loss, mean over `scored`
    kl: float | None  # KL(original || ablated), mean over `scored`
    peak_kl: float | None  # at `peak`
    attribution: float | None  # delta_loss to first order, by gradient
    random_kl: float | None  # kl of a random direction of the same norm at the same positions
    scored: tuple[int, ...]  # scored positions from `first` on
    delta_losses: tuple[float, ...]  # at each of them
    kls: tuple[float, ...]
    up_ids: tuple[int, ...]  # tokens whose logits at `peak` the feature raises most
    up_logits: tuple[float, ...]  # by how much, centred over the vocabulary
    down_ids: tuple[int, ...]
    down_logits: tuple[float, ...]


@dataclass(frozen=True)
class FeatureEffect:
    """Means over a feature's examples whose status is ok.

    status: ok; not_scored or silent: all its examples are; no_examples: it has none of the kinds.
    """

    feature: int
    status: str
    n_examples: int  # those that are ok
    delta_loss: float | None
    kl: float | None
    attribution: float | None
    random_kl: float | None
    exceeds: float | None  # share of the examples whose kl is above their random_kl


@dataclass(frozen=True)
class CausalScore:
    """What ablation says of an SAE: how many features do more than random directions would."""

    features: int  # asked for
    measured: int  # with at least one example that is ok
    exceeding: int  # of these: mean kl above mean random_kl
    share: float | None  # exceeding / measured
    low: float | None  # Wilson's 95% interval, features as units
    high: float | None
    examples: int  # ok ones of all features
    delta_loss: float | None  # mean over features
    kl: float | None
    random_kl: float | None
    pearson: float | None  # attribution with delta_loss, over examples; None: undefined
    spearman: float | None


@dataclass(frozen=True)
class LiveChange:
    """One token of a live prompt and what ablation changes there; None: not scored."""

    bytes: bytes
    special: bool
    kept: bool
    activation: float  # of the ablated feature; 0 where silent or not kept
    delta_loss: float | None
    kl: float | None


@dataclass(frozen=True)
class LiveEffect:
    """A live prompt without one feature. Statuses and numbers as in ExampleEffect."""

    feature: int
    status: str
    tokens: tuple[LiveChange, ...]
    peak: int | None  # index into tokens
    delta_loss: float | None
    kl: float | None
    peak_kl: float | None
    attribution: float | None
    random_kl: float | None
    up: tuple[tuple[bytes, float], ...]  # tokens raised most at `peak`, and by how much
    down: tuple[tuple[bytes, float], ...]
    truncated: bool
    ms: float


@dataclass(frozen=True)
class SteeredToken:
    """One generated token."""

    id: int
    bytes: bytes
    special: bool
    probability: float  # the steered model gave it, at temperature 1, of the whole vocabulary


@dataclass(frozen=True)
class SteeredText:
    """What the model wrote with one feature held up, pushed down or taken away."""

    strength: float | None  # in units of the feature's largest activation; None: clamped to zero
    tokens: tuple[SteeredToken, ...]
    ended: bool  # by its own end-of-text token, the last of `tokens`


@dataclass(frozen=True)
class Steering:
    """The same prompt continued several ways with the same seed; the first is unsteered."""

    feature: int
    prompt: tuple[tuple[bytes, bool], ...]  # (bytes, special) of each token, prefix included
    texts: tuple[SteeredText, ...]
    truncated: bool
    ms: float


@dataclass(frozen=True)
class Mark:
    """What people wrote about one feature: everybody's, since a team shares one lab."""

    sae: str
    feature: int
    bookmarked: bool = False
    tags: tuple[str, ...] = ()  # sorted
    note: str | None = None  # the newest
    label: str | None = None  # the newest explanation in a person's own words
    changed: str | None = None  # time of the newest of them; None: nothing is written


@dataclass(frozen=True)
class Written:
    """One version of a note or a label."""

    text: str  # "": it was taken away
    who: str
    time: str  # 2026-11-21T10:00:00.000000Z


@dataclass(frozen=True)
class Change:
    """One line of the lab's journal that changed something."""

    line: int
    action: str  # bookmark | tag | note | label | list | entry | filter | import
    who: str
    time: str
    items: int  # registers it set; of these the first:
    kind: str  # as action, or what an import began with
    sae: str | None
    feature: int | None
    name: str | None  # tag, list's id, filter's name
    value: str | None  # text, list's name, ...; None: taken away


@dataclass(frozen=True)
class FeatureList:
    """A list of features in the order somebody gave it."""

    id: str
    name: str
    who: str  # gave it its name
    time: str
    entries: tuple[tuple[str, int], ...]  # (sae, feature)


@dataclass(frozen=True)
class SavedFilter:
    """A filter of the feature list under a name."""

    name: str
    query: dict[str, str]  # the keys and values of the page's address
    who: str
    time: str


@dataclass(frozen=True)
class JobProgress:
    """How far a job has come. Times in seconds."""

    phase: str
    done: float
    total: float
    note: str
    elapsed: float  # in this phase
    eta: float | None  # to the end of this phase; None: cannot be told yet


@dataclass(frozen=True)
class Job:
    """A command that runs, or ran, in the background. Times in seconds since 1970.

    state: running; done; failed (reason says how); cancelled; lost: it died without a word, as when
    the machine was switched off.
    """

    id: str
    title: str
    arguments: tuple[str, ...]  # of run.py
    who: str
    state: str
    began: float
    ended: float | None  # None while it runs; of a lost one: the last it was heard of
    cancelling: bool  # asked to stop, but still there
    exit_code: int | None  # negative: the signal that ended it
    reason: str | None  # one sentence, of a job that failed or is lost
    peak_bytes: int | None  # largest memory of its processes
    progress: JobProgress | None  # None: none told yet
