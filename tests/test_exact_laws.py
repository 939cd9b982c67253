"""The output law of every mode, by enumeration over drafts and coins: the proposals are those of the decoder.

Nothing is sampled. For vocabularies of up to 6 tokens the law of one step is summed over every draft, over whether the
gate keeps it, and over both outcomes of the server's coin (`Verdict.law`), and compared with THEORY to rounding.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import law

from cuhlm_opt.bounds import (
    published_surrogate,
    query_bias,
    skip_risk,
    smallest_within,
    truncation_bound,
    truncation_bound_true_draft,
)
from cuhlm_opt.distributions import rejection_probability, total_variation
from cuhlm_opt.truncation import largest, reconstruct, size_grid, truncation_distances
from cuhlm_opt.uncertainty import mean_uncertainty
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

ROUNDING = 1e-12
Law = NDArray[np.float64]


def output_law(drafts: Law, y: Law, skip: Law, ask: Callable[[int], Upload]) -> Law:
    """Law of the token of one step: d ~ drafts, kept with probability s_d, else ruled on by the server."""
    output = np.zeros(len(y))
    for d in np.flatnonzero(drafts):
        output[d] += drafts[d] * skip[d]
        output += drafts[d] * (1 - skip[d]) * ask(int(d)).verify(y).law()
    return output


def full(x: Law) -> Callable[[int], Upload]:
    """All of the law that the drafts come from: hlm, u-hlm, random; exact with x_hat."""
    return lambda d: Proposal(draft=d, tested=x[d], law=x)


def truncated(x: Law, x_hat: Law) -> Callable[[int], Upload]:
    """The published truncation: tested with the true x_d, redrawn with x_hat."""
    return lambda d: Proposal(draft=d, tested=x[d], law=x_hat)


def coarse(x: Law, kept: NDArray[np.integer]) -> Callable[[int], Upload]:
    """Kept entries only; every other draft is in the lump."""
    return lambda d: CoarseProposal(kept=kept, masses=x[kept], draft=d if d in kept else None)


def x_hat_of(x: Law, k: int) -> Law:
    kept = largest(x, k)
    return reconstruct(kept, x[kept], len(x))


def u_bar_of(x: Law) -> Law:
    with np.errstate(divide="ignore"):
        return mean_uncertainty(np.log(x), np.arange(len(x)))


def hard_cases() -> dict[str, tuple[Law, Law]]:
    x = law(6, 3, 1)
    cases = {
        "one token": (law(1), law(1)),
        "equal": (x, x),
        "equal and flat": (law(1, 1, 1, 1), law(1, 1, 1, 1)),
        "disjoint": (law(3, 1, 0, 0), law(0, 0, 1, 1)),
        "one-hot, the same": (law(0, 1, 0), law(0, 1, 0)),
        "one-hot, others": (law(0, 1, 0), law(1, 0, 0)),
        "certain draft": (law(0, 1, 0), law(1, 1, 1)),
        "certain LLM": (law(1, 1, 1), law(0, 1, 0)),
        "ties": (law(2, 2, 1, 1, 0), law(1, 2, 2, 1, 1)),
        "ties at the cut": (law(1, 1, 1, 1, 1, 1), law(3, 1, 1, 1, 1, 0)),
        "zeros of x": (law(7, 2, 0, 0, 1), law(1, 1, 1, 1, 1)),
        "zeros of y": (law(7, 2, 1, 1, 1), law(0, 5, 0, 1, 1)),
        "argmax refused": (law(8, 1, 1), law(0, 1, 2)),
        "close": (x, 0.9 * x + 0.1 * law(1, 2, 3)),
        "tiny": (law(1, 1e-15, 1e-300), law(1, 1e-9, 1e-12)),
        "float32": (law(*np.float32([0.7, 0.2, 0.1])), law(0.7, 0.2, 0.1)),
    }
    rng = np.random.default_rng(11)
    for size in range(2, 7):
        for number in range(4):
            x, y = rng.dirichlet(np.full(size, 0.5 if number % 2 else 2.0), size=2)
            cases[f"random {size}/{number}"] = (x, y)
    return cases


CASES = hard_cases()
each_case = pytest.mark.parametrize(("x", "y"), CASES.values(), ids=CASES.keys())
RNG_SEED = 5


def gates(x: Law) -> list[Law]:
    """Deterministic gates u_bar <= t, t below and above 1/2."""
    u_bar = u_bar_of(x)
    return [np.where(u_bar <= t, 1.0, 0.0) for t in (-1.0, 0.05, 0.2, 0.35, 0.499, 0.7, 0.95, 1.0)]


def coins(x: Law) -> list[Law]:
    """Skip probabilities that read x and the draft in any way, and one that reads nothing."""
    rng = np.random.default_rng(RNG_SEED)
    return [rng.random(len(x)), (rng.random(len(x)) < 0.5) * rng.random(len(x)), np.full(len(x), 0.3)]


def subsets(tokens: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    return [np.array(s, dtype=int) for n in range(len(tokens) + 1) for s in combinations(tokens.tolist(), n)]


@each_case
def test_hlm_is_exact(x, y):
    np.testing.assert_allclose(output_law(x, y, np.zeros(len(x)), full(x)), y, atol=ROUNDING)


@each_case
def test_exact_without_skipping_is_exact_for_every_k(x, y):
    """Truncate, then draw: d ~ x_hat, verified with the same x_hat [N, THEORY 4.7]; rejection rate TV(x_hat, y)."""
    for k in range(len(x) + 1):
        x_hat = x_hat_of(x, k)
        np.testing.assert_allclose(output_law(x_hat, y, np.zeros(len(x)), full(x_hat)), y, atol=ROUNDING)
        rejected = sum(x_hat[d] * (1 - full(x_hat)(d).verify(y).acceptance) for d in np.flatnonzero(x_hat))
        assert rejected == pytest.approx(total_variation(x_hat, y), abs=ROUNDING)


@each_case
def test_coarse_without_skipping_is_exact_for_every_kept_set(x, y):
    for kept in subsets(np.arange(len(x))):
        np.testing.assert_allclose(output_law(x, y, np.zeros(len(x)), coarse(x, kept)), y, atol=ROUNDING)


@each_case
def test_u_hlm_has_the_skip_risk(x, y):
    """TV(output, y) = E[s beta] for any s, with coins or without [N, THEORY 4.3]."""
    beta = rejection_probability(x, y)
    for skip in gates(x) + coins(x):
        bias = total_variation(output_law(x, y, skip, full(x)), y)
        assert bias == pytest.approx(x @ (skip * beta), abs=ROUNDING)
        assert bias == pytest.approx(skip_risk(x, y, skip), abs=ROUNDING)


@each_case
def test_coarse_has_the_skip_risk_for_every_set_that_holds_the_skippable_tokens(x, y):
    """TV(output, y) = E[s beta], no truncation term, for any K that contains all v with s_v > 0 [N, THEORY 5]."""
    for skip in gates(x) + coins(x):
        needed = np.flatnonzero(skip)
        for extra in subsets(np.flatnonzero(skip == 0)):
            output = output_law(x, y, skip, coarse(x, np.sort(np.concatenate([needed, extra]))))
            assert total_variation(output, y) == pytest.approx(skip_risk(x, y, skip), abs=ROUNDING)


@each_case
def test_coarse_below_one_half_keeps_the_argmax_or_nothing(x, y):
    """With u_bar <= t < 1/2 only the argmax is skippable; where it is not, K is empty and the server draws from y."""
    for t in (0.05, 0.2, 0.35, 0.499):
        skip = np.where(u_bar_of(x) <= t, 1.0, 0.0)
        kept = np.flatnonzero(skip)
        assert kept.tolist() in ([], [int(np.argmax(x))])
        output = output_law(x, y, skip, coarse(x, kept))
        assert total_variation(output, y) == pytest.approx(skip_risk(x, y, skip), abs=ROUNDING)
        if len(kept) == 0:
            np.testing.assert_allclose(coarse(x, kept)(0).verify(y).law(), y, atol=ROUNDING)


def test_coarse_needs_the_skippable_tokens():
    """A K without a skippable token is wrong: the lump's mass under the asked drafts is not that of x."""
    x, y, skip = law(6, 3, 1), law(2, 3, 5), np.array([1.0, 0.0, 0.0])
    output = output_law(x, y, skip, coarse(x, np.array([1])))
    assert total_variation(output, y) > skip_risk(x, y, skip) + 0.01


@each_case
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.748, 1.0])
def test_random_has_its_rate_times_total_variation(x, y, rate):
    output = output_law(x, y, np.full(len(x), rate), full(x))
    assert total_variation(output, y) == pytest.approx(rate * total_variation(x, y), abs=ROUNDING)


@each_case
def test_query_has_its_own_bias_and_with_a_certain_gate_more_than_the_skip_risk(x, y):
    """1/2 sum |s_v x_v - S y_v|, S = sum s x [N, THEORY 3]."""
    for skip in gates(x) + coins(x):
        bias = total_variation(output_law(x, y, skip, lambda d: Query()), y)
        assert bias == pytest.approx(query_bias(x, y, skip), abs=ROUNDING)
    for skip in gates(x):
        assert query_bias(x, y, skip) >= skip_risk(x, y, skip) - ROUNDING


@each_case
def test_exact_with_skipping_has_the_skip_risk_of_x_hat(x, y):
    """TV(output, y) = E_{d ~ x_hat}[s_d beta_hat_d] [N, THEORY 4.7]."""
    for k in range(len(x) + 1):
        x_hat = x_hat_of(x, k)
        beta_hat = rejection_probability(x_hat, y)
        for skip in gates(x) + coins(x):
            bias = total_variation(output_law(x_hat, y, skip, full(x_hat)), y)
            assert bias == pytest.approx(x_hat @ (skip * beta_hat), abs=ROUNDING)


@each_case
def test_cu_hlm_offline_stays_under_its_bounds(x, y):
    """TV <= E[s beta] + TV(x, x_hat) E[(1-s) beta] / max(R, R') <= E[s beta] + TV(x, x_hat) [N, THEORY 4.5]."""
    r, beta = total_variation(x, y), rejection_probability(x, y)
    for k in range(len(x) + 1):
        x_hat = x_hat_of(x, k)
        lost, r_hat = total_variation(x, x_hat), total_variation(x_hat, y)
        for skip in gates(x) + coins(x):
            bias = total_variation(output_law(x, y, skip, truncated(x, x_hat)), y)
            risk = skip_risk(x, y, skip)
            asked = float(x @ ((1 - skip) * beta))
            finer = lost * asked / max(r, r_hat) if asked > 0 else 0.0
            assert bias <= risk + finer + ROUNDING
            assert risk + finer <= risk + float(truncation_bound(lost)) + ROUNDING
        bias = total_variation(output_law(x, y, np.zeros(len(x)), truncated(x, x_hat)), y)
        assert bias <= float(truncation_bound_true_draft(lost, r, r_hat)) + ROUNDING


@each_case
def test_whole_step_with_x_hat_stays_under_its_bound(x, y):
    """TV <= E[s beta] + TV(x, x_hat) where the server also tests with x_hat_d [N, THEORY 4.4 (A), 4.5]."""
    for k in range(len(x) + 1):
        x_hat = x_hat_of(x, k)
        for skip in gates(x) + coins(x):
            bias = total_variation(output_law(x, y, skip, full(x_hat)), y)
            assert bias <= skip_risk(x, y, skip) + float(truncation_bound(total_variation(x, x_hat))) + ROUNDING


def online_sizes(x: Law, theta: float, a: float, b: float) -> NDArray[np.integer]:
    """k(d) for each draft, as published: the surrogate with clip(a u_d + b, 0, 1) for beta_d [P2, THEORY 2.7]."""
    beta = np.clip(a * u_bar_of(x) + b, 0.0, 1.0)
    sizes = size_grid(len(x))
    _, tv = truncation_distances(np.sort(x)[::-1], sizes)
    return sizes[smallest_within(published_surrogate(tv, x[:, None], beta[:, None]), theta)]


def online(x: Law, sizes: NDArray[np.integer]) -> Callable[[int], Upload]:
    return lambda d: truncated(x, x_hat_of(x, int(sizes[d])))(d)


def distances(x: Law, sizes: NDArray[np.integer]) -> Law:
    return np.array([total_variation(x, x_hat_of(x, int(k))) for k in sizes])


def test_cu_hlm_online_exceeds_the_mean_over_drafts_of_its_truncation_distances():
    """E_d[TV(x, x_hat_{k(d)})] does not bound the output: k reads the draft, and the refused ones may have the small k.

    With the published a, b and theta = 0.94: only draft 2, half of all drafts, is sent with k = 1, at distance 1/5; y
    refuses no other. The mean is 1/10, the bias 1/5. The largest distance over the drafts, 1/5, is met exactly.
    """
    x, y = law(1, 9, 10), law(8, 10, 2)
    sizes = online_sizes(x, theta=0.94, a=0.815, b=-0.066)
    assert sizes.tolist() == [2, 2, 1]
    bias = total_variation(output_law(x, y, np.zeros(3), online(x, sizes)), y)
    assert bias == pytest.approx(0.2, abs=ROUNDING)
    assert x @ distances(x, sizes) == pytest.approx(0.1, abs=ROUNDING)
    assert distances(x, sizes).max() == pytest.approx(0.2, abs=ROUNDING)


@each_case
def test_cu_hlm_online_stays_under_the_largest_distance_over_drafts(x, y):
    """TV <= E[s beta] + sum_d (1-s_d)(x_d-y_d)+ TV(x, x_hat_d)/max(R, R'_d), for any k(d): 4.4's lemma per draft."""
    r = total_variation(x, y)
    rng = np.random.default_rng(RNG_SEED)
    published = [online_sizes(x, theta, 0.815, -0.066) for theta in (0.1, 0.5, 1.0)]
    for sizes in [*published, *rng.integers(0, len(x) + 1, size=(4, len(x)))]:
        lost = distances(x, sizes)
        larger = np.array([max(r, total_variation(x_hat_of(x, int(k)), y)) for k in sizes])
        for skip in gates(x) + coins(x):
            bias = total_variation(output_law(x, y, skip, online(x, sizes)), y)
            asked = (1 - skip) * np.maximum(x - y, 0)
            finer = float(np.sum(np.divide(asked * lost, larger, out=np.zeros_like(asked), where=asked > 0)))
            assert bias <= skip_risk(x, y, skip) + finer + ROUNDING
            assert finer <= lost.max() + ROUNDING
