"""The sample of tokens and their codes, against the definition; two sites; the limit on pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import WorkbenchError
from interp import sampled_codes
from interp.sampled_codes import Encoding, sampled_rows
from interp.sampling import token_hash
from tests import tiny
from tests.interp.conftest import TEXTS


@pytest.fixture(scope="module")
def elsewhere(lm, tmp_path_factory):
    """The same texts at another site; there the masks leave out other positions too."""
    return tiny.cache(tmp_path_factory.mktemp("other"), lm, TEXTS, "resid_post.0", skip_first=4)


def hashes(cache, seed):
    return token_hash(np.array(cache.doc), np.array(cache.position), seed)


def encoded(*arguments, **options):
    encoding = Encoding(*arguments, **options)
    steps = list(encoding)
    assert steps[-1].done == steps[-1].total
    return encoding.codes


def dense(codes):
    f = np.zeros((codes.n_tokens, codes.d_sae), dtype=np.float32)
    f[np.repeat(np.arange(codes.n_tokens), np.diff(codes.ends)), codes.features] = codes.values
    return f


@pytest.mark.parametrize("hashed", [2**20, 17])
def test_the_sample_is_the_tokens_of_smallest_hash(cache, hashed, monkeypatch):
    monkeypatch.setattr(sampled_codes, "HASHED", hashed)
    (rows,) = sampled_rows([cache], 50, seed=3)
    np.testing.assert_array_equal(rows, np.argsort(hashes(cache, 3))[:50])
    (all_rows,) = sampled_rows([cache], 10**9, seed=3)
    assert sorted(all_rows) == list(range(cache.n_rows))
    assert (sampled_rows([cache], 50, seed=4)[0] != rows).any()


def test_two_sites_give_the_same_tokens(cache, elsewhere):
    here, there = sampled_rows([cache, elsewhere], 200, seed=0)
    np.testing.assert_array_equal(hashes(cache, 0)[here], hashes(elsewhere, 0)[there])
    both = np.intersect1d(hashes(cache, 0), hashes(elsewhere, 0))
    assert 100 < len(here) <= 200
    np.testing.assert_array_equal(hashes(cache, 0)[here], both[: len(here)])


def test_no_token_in_common_is_refused(cache, elsewhere):
    seeds = range(1000)
    apart = next(s for s in seeds if hashes(cache, s).min() != hashes(elsewhere, s).min())
    with pytest.raises(WorkbenchError, match="none of 1 sampled tokens is kept at both sites"):
        sampled_rows([cache, elsewhere], 1, apart)


def test_codes_are_those_of_encode(exact, monkeypatch):
    cache, sae = exact["separate"]
    monkeypatch.setattr(sampled_codes, "FIRST_ROUND", 10)
    monkeypatch.setattr(sampled_codes, "PRE_CELLS", 1)
    (codes,) = encoded([sae], [cache], 150, seed=1)
    (rows,) = sampled_rows([cache], 150, seed=1)
    order = np.concatenate([np.sort(rows[:10]), np.sort(rows[10:30]), np.sort(rows[30:70]),
                            np.sort(rows[70:])])  # fmt: skip
    f = sae.encode(torch.from_numpy(cache.x[order])).numpy()
    np.testing.assert_array_equal(dense(codes), f)
    for start, stop in zip(codes.ends[:-1], codes.ends[1:], strict=True):
        assert (np.diff(codes.features[start:stop]) > 0).all(), "by feature within a token"


def test_two_saes_see_the_same_tokens(cache, elsewhere):
    saes = [tiny.random_sae(c.x, d, share=0.2) for c, d in ((cache, 20), (elsewhere, 30))]
    codes = encoded(saes, [cache, elsewhere], 300, seed=0)
    here, there = sampled_rows([cache, elsewhere], 300, seed=0)
    order = np.argsort(here)
    for code, sae, c, rows in zip(codes, saes, (cache, elsewhere), (here, there), strict=True):
        f = sae.encode(torch.from_numpy(c.x[rows[order]])).numpy()
        np.testing.assert_allclose(dense(code), f, rtol=1e-5)


def test_too_many_pairs_shorten_the_sample(cache, monkeypatch):
    monkeypatch.setattr(sampled_codes, "FIRST_ROUND", 16)
    sae = tiny.random_sae(cache.x, 20, share=0.3)
    (rows,) = sampled_rows([cache], 10**9, seed=0)
    active = (sae.encode(torch.from_numpy(cache.x[rows])) > 0).sum(1).numpy().astype(float)
    pairs = np.cumsum(active**2)
    for limit in (pairs[40] + 0.5, pairs[15], pairs[3]):
        (codes,) = encoded([sae], [cache], 10**9, seed=0, most_pairs=limit)
        assert codes.n_tokens == (pairs <= limit).sum()
        assert (np.diff(codes.ends) ** 2).sum() <= limit
    (codes,) = encoded([sae], [cache], 10**9, seed=0, most_pairs=0.5)
    assert codes.n_tokens == 1, "a sample is never empty"
