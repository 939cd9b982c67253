"""The output law of every mode, by enumeration over all drafts and coins, equals THEORY's to 1e-12.

The laws are built from the verdicts that the decoder samples from, so that what is proved here is what runs there.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from cuhlm_opt.bounds import (
    published_surrogate,
    query_bias,
    skip_risk,
    smallest_within,
    truncation_bound,
    truncation_bound_true_draft,
)
from cuhlm_opt.distributions import rejection_probability, softmax, total_variation
from cuhlm_opt.truncation import largest, reconstruct, truncation_distances
from cuhlm_opt.uncertainty import mean_uncertainty
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

Law = NDArray[np.float64]
EXACT = 1e-12


def hard_cases() -> Iterator[tuple[Law, Law]]:
    """Zeros on either side, ties, y = x, disjoint supports, one-hot laws."""
    yield np.array([1.0, 0.0]), np.array([0.0, 1.0])
    yield np.array([0.5, 0.5]), np.array([0.5, 0.5])
    yield np.array([1.0, 0.0, 0.0]), np.array([0.2, 0.3, 0.5])
    yield np.array([0.4, 0.3, 0.3, 0.0]), np.array([0.4, 0.0, 0.3, 0.3])
    yield np.full(6, 1 / 6), np.array([0.0, 0.0, 0.0, 0.5, 0.25, 0.25])
    yield np.array([0.25, 0.25, 0.25, 0.25, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.5])


def random_cases(count: int = 60) -> Iterator[tuple[Law, Law]]:
    """Laws of 2 to 6 tokens, peaked and flat, y from near x to unrelated."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        size = int(rng.integers(2, 7))
        x = rng.dirichlet(np.full(size, rng.choice([0.2, 1.0, 5.0])))
        noise = rng.dirichlet(np.ones(size))
        weight = rng.choice([0.1, 0.5, 1.0])
        yield x, (1 - weight) * x + weight * noise


CASES = [*hard_cases(), *random_cases()]
cases = pytest.mark.parametrize(("x", "y"), CASES, ids=[f"case{i}" for i in range(len(CASES))])


def skips(x: Law, seed: int = 5) -> list[Law]:
    """Skipping rules: never, the likeliest token, a random set, coins that read the draft, one coin for all, always."""
    rng = np.random.default_rng(seed)
    size = len(x)
    likeliest = np.eye(size)[int(np.argmax(x))]
    random_set = (rng.random(size) < 0.5).astype(float)
    return [np.zeros(size), likeliest, random_set, rng.random(size), np.full(size, 0.3), np.ones(size)]


def output_law(draft_law: Law, skip: Law, y: Law, upload: Callable[[int], Upload]) -> Law:
    """Sum over drafts d and the coin of skipping: d itself, or the law of the server's verdict on the upload of d."""
    law = np.zeros(len(y))
    for draft, probability in enumerate(draft_law):
        law[draft] += probability * skip[draft]
        if probability * (1 - skip[draft]) > 0:
            law += probability * (1 - skip[draft]) * upload(draft).verify(y).law()
    return law


def full(x: Law) -> Callable[[int], Upload]:
    """Uploads of hlm, u-hlm and random."""
    return lambda draft: Proposal(draft=draft, tested=x[draft], law=x)


def truncated(x: Law, k: int) -> Law:
    kept = largest(x, k)
    return reconstruct(kept, x[kept], len(x))


@cases
def test_hlm_gives_y(x, y):
    """Exact verification of every draft gives y."""
    assert total_variation(output_law(x, np.zeros(len(x)), y, full(x)), y) < EXACT


@cases
def test_u_hlm_has_tv_of_the_skip_risk(x, y):
    """TV(output, y) = E[s beta] for every rule and coin that reads the draft (4.3)."""
    for skip in skips(x):
        bias = total_variation(output_law(x, skip, y, full(x)), y)
        assert bias == pytest.approx(skip_risk(x, y, skip), abs=EXACT)
        assert bias == pytest.approx(float(np.sum(x * skip * rejection_probability(x, y))), abs=EXACT)


@cases
def test_random_has_tv_of_skip_rate_times_tv(x, y):
    """TV(output, y) = p TV(x, y) for a coin that does not read the draft."""
    for rate in (0.0, 0.3, 1.0):
        law = output_law(x, np.full(len(x), rate), y, full(x))
        assert total_variation(law, y) == pytest.approx(rate * total_variation(x, y), abs=EXACT)


@cases
def test_slm_and_llm_are_the_ends(x, y):
    """Skipping everything gives x, querying everything gives y."""
    assert total_variation(output_law(x, np.ones(len(x)), y, full(x)), x) < EXACT
    assert total_variation(output_law(x, np.zeros(len(x)), y, lambda draft: Query()), y) < EXACT


@cases
def test_query_has_its_own_formula(x, y):
    """TV = 1/2 sum |s_v x_v - S y_v|; for a rule without coins it is at least E[s beta]."""
    for skip in skips(x):
        bias = total_variation(output_law(x, skip, y, lambda draft: Query()), y)
        assert bias == pytest.approx(query_bias(x, y, skip), abs=EXACT)
        if set(skip) <= {0.0, 1.0}:
            assert bias >= skip_risk(x, y, skip) - EXACT


@cases
def test_coarse_has_tv_of_the_skip_risk_for_any_set_that_holds_the_skippable(x, y):
    """TV(output, y) = E[s beta] exactly, for every K that contains the skippable tokens, even empty (section 5)."""
    rng = np.random.default_rng(2)
    for skip in skips(x):
        needed = skip > 0
        for kept_mask in (needed, needed | (rng.random(len(x)) < 0.5), np.ones(len(x), dtype=bool)):
            kept = np.flatnonzero(kept_mask)

            def upload(draft: int, kept: NDArray[np.intp] = kept) -> Upload:
                return CoarseProposal(kept=kept, masses=x[kept], draft=draft if draft in kept else None)

            bias = total_variation(output_law(x, skip, y, upload), y)
            assert bias == pytest.approx(skip_risk(x, y, skip), abs=EXACT)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.35, 0.49])
@pytest.mark.parametrize("seed", range(12))
def test_coarse_under_the_deterministic_gate(seed, threshold):
    """The gate u_bar <= t < 1/2 can keep only the argmax, and coarse then has TV = E[s beta]."""
    rng = np.random.default_rng(seed)
    slm = rng.normal(size=6) * rng.choice([1.0, 4.0])
    x, y = softmax(slm), softmax(slm + rng.normal(size=6))
    u_bar = mean_uncertainty(slm, np.arange(6))
    skip = (u_bar <= threshold).astype(float)
    assert set(np.flatnonzero(skip)) <= {int(np.argmax(x))}
    kept = np.flatnonzero(skip)

    def upload(draft: int) -> Upload:
        return CoarseProposal(kept=kept, masses=x[kept], draft=draft if draft in kept else None)

    assert total_variation(output_law(x, skip, y, upload), y) == pytest.approx(skip_risk(x, y, skip), abs=EXACT)


@cases
def test_exact_gives_y_without_skipping_and_the_risk_of_x_hat_with_it(x, y):
    """Drafts from x_hat, verified against x_hat: y for any k, and TV = E_{d~x_hat}[s beta_hat] with skipping (4.7)."""
    for k in range(len(x) + 1):
        x_hat = truncated(x, k)
        for skip in skips(x):
            bias = total_variation(output_law(x_hat, skip, y, full(x_hat)), y)
            expected = float(np.sum(x_hat * skip * rejection_probability(x_hat, y)))
            assert bias == pytest.approx(expected, abs=EXACT)
        assert total_variation(output_law(x_hat, np.zeros(len(x)), y, full(x_hat)), y) < EXACT


@cases
def test_cu_hlm_offline_stays_under_its_bounds(x, y):
    """TV <= E[s beta] + TV(x, x_hat), and under the finer (B); whole-step (A) without skipping under TV(x, x_hat)."""
    r = total_variation(x, y)
    for k in range(len(x) + 1):
        x_hat = truncated(x, k)
        distance, r_hat = total_variation(x, x_hat), total_variation(x_hat, y)

        def upload(draft: int, x_hat: Law = x_hat) -> Upload:
            return Proposal(draft=draft, tested=x[draft], law=x_hat)

        for skip in skips(x):
            bias = total_variation(output_law(x, skip, y, upload), y)
            risk = skip_risk(x, y, skip)
            assert bias <= risk + truncation_bound(distance) + EXACT
            rejected = float(np.sum(x * (1 - skip) * rejection_probability(x, y)))
            larger = max(r, r_hat)
            finer = distance * rejected / larger if larger > 0 else 0.0
            assert bias <= risk + finer + EXACT
        bias = total_variation(output_law(x, np.zeros(len(x)), y, upload), y)
        assert bias <= truncation_bound_true_draft(distance, r, r_hat) + EXACT
        whole_step = output_law(x, np.zeros(len(x)), y, full(x_hat))
        assert total_variation(whole_step, y) <= distance + EXACT


def online(x: Law, y: Law, theta: float) -> tuple[Law, Law]:
    """cu-hlm-online as published, with the true beta: output law, and TV(x, x_hat) of the k that each draft chooses."""
    sizes = np.arange(len(x) + 1)
    _, distances = truncation_distances(np.sort(x)[::-1], sizes)
    beta = rejection_probability(x, y)
    chosen = [int(smallest_within(published_surrogate(distances, x[d], beta[d]), theta)) for d in range(len(x))]
    law = output_law(
        x,
        np.zeros(len(x)),
        y,
        lambda draft: Proposal(draft=draft, tested=x[draft], law=truncated(x, chosen[draft])),
    )
    return law, distances[chosen]


def test_cu_hlm_online_can_pass_the_naive_bound():
    """k(d) reads the draft: the mean over drafts of TV(x, x_hat_{k(d)}) bounds nothing; the largest of them does."""
    rng = np.random.default_rng(0)
    excess = []
    for _ in range(4000):
        size = int(rng.integers(3, 7))
        x, y = rng.dirichlet(np.full(size, 0.7)), rng.dirichlet(np.full(size, 0.7))
        law, distances = online(x, y, theta=float(rng.uniform(0.05, 0.6)))
        bias = total_variation(law, y)
        excess.append(bias - float(x @ distances))
        assert bias <= distances.max() + EXACT
    assert max(excess) > 0.005
    assert np.mean(np.array(excess) > EXACT) < 0.5
