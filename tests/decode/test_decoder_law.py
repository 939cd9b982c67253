"""What the decoder draws follows the enumerated law of its mode.

The fake models are Markov chains, so a long answer holds many draws behind each token: the transitions are counted and
compared with the law of the mode, written here from the mode table without the code under test.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from decode_fakes import LLM, SLM, fake_pair, operating_point
from numpy.typing import NDArray
from scipy.stats import binom

from cuhlm_opt.decode.loop import decode
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Distortion, Drafting, PendingData

TOKENS = 2500
BITS = 16
Law = NDArray[np.float64]


def law(logits: Law) -> Law:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def gate(logits: Law, threshold: float) -> Law:
    """s_v = 1[u_bar_v <= t], the integral by the midpoint rule."""
    thetas = (np.arange(4000) + 0.5) / 2000
    u_bar = 1 - np.mean([law(logits.astype(float) / theta) for theta in thetas], axis=0)
    return (u_bar <= threshold).astype(float)


def cut(x: Law, k: int) -> Law:
    kept = np.argsort(-x, kind="stable")[:k]
    x_hat = np.full(len(x), (1 - x[kept].sum()) / max(len(x) - k, 1))
    x_hat[kept] = x[kept]
    return x_hat


def down(x: Law, bits: int) -> Law:
    """To multiples of 1/(2^bits - 1)."""
    return np.floor(x * (2**bits - 1)) / (2**bits - 1)


def cut_down(x: Law, k: int, bits: int) -> Law:
    """K masses rounded down, the rest spread evenly."""
    kept = np.argsort(-x, kind="stable")[:k]
    x_hat = np.full(len(x), (1 - down(x[kept], bits).sum()) / (len(x) - k))
    x_hat[kept] = down(x[kept], bits)
    return x_hat


def lumped(x: Law, s: Law, bits: int) -> Law:
    """The skippable masses rounded down, the others scaled to the rest."""
    kept = s > 0
    masses = down(x[kept], bits)
    law = x * (1 - masses.sum()) / x[~kept].sum()
    law[kept] = masses
    return law


def verified(x: Law, y: Law, s: Law, x_hat: Law) -> Law:
    """Skip with s, test the others with x_hat as the server does, redraw from norm((y - x_hat)+)."""
    beta = np.maximum(1 - np.divide(y, x_hat, out=np.ones_like(y), where=x_hat > 0), 0)
    excess = np.maximum(y - x_hat, 0)
    return s * x + (1 - s) * x * (1 - beta) + ((1 - s) * x * beta).sum() * excess / excess.sum()


def coarse(x: Law, y: Law, s: Law) -> Law:
    """Skip with s; else the speculative step on the kept tokens and the lump of the others."""
    kept = s > 0
    x_lump, y_lump = x[~kept].sum(), y[~kept].sum()
    within = np.where(kept, 0, y) / y_lump
    accept = min(1.0, y_lump / x_lump)
    excess = np.where(kept, np.maximum(y - x, 0), 0)
    lump_excess = max(y_lump - x_lump, 0)
    redraw = excess + lump_excess * within
    rejected = x_lump * (1 - accept)
    return s * x + x_lump * accept * within + (rejected * redraw / redraw.sum() if rejected else 0)


def drawn_from(wanted: Law, tokens: Sequence[int] | NDArray[np.intp]) -> bool:
    """Whether each token's count lies within its binomial law, tails of 1e-5 apart."""
    counts = np.bincount(tokens, minlength=len(wanted))
    drawn = binom(len(tokens), np.clip(wanted, 0.0, 1.0))
    return bool(np.all((drawn.cdf(counts) > 1e-5) & (drawn.sf(counts - 1) > 1e-5)))


def smallest(x: Law, theta: float) -> int:
    return next(k for k in range(len(x) + 1) if np.abs(x - cut(x, k)).sum() / 2 <= theta)


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("slm", {}, lambda x, y, s: x),
    ("llm", {}, lambda x, y, s: y),
    ("hlm", {}, lambda x, y, s: y),
    ("u-hlm", {}, lambda x, y, s: verified(x, y, s, x)),
    ("u-hlm", {"u_threshold": 0.75}, lambda x, y, s: verified(x, y, s, x)),
    ("u-hlm", {"u_threshold": None}, lambda x, y, s: y),
    ("random", {"skip_rate": 0.4}, lambda x, y, s: 0.4 * x + 0.6 * y),
    ("query", {}, lambda x, y, s: s * x + (1 - (s * x).sum()) * y),
    ("cu-hlm-offline", {"k": 2}, lambda x, y, s: verified(x, y, s, cut(x, 2))),
    ("cu-hlm-online", {"theta": 0.2}, lambda x, y, s: verified(x, y, s, cut(x, smallest(x, 0.2)))),
    ("exact", {"k": 2, "u_threshold": None}, lambda x, y, s: y),
    ("exact", {"k": 2}, lambda x, y, s: verified(cut(x, 2), y, s, cut(x, 2))),
    ("coarse", {"u_threshold": None}, lambda x, y, s: y),
    ("coarse", {}, lambda x, y, s: coarse(x, y, s)),
    ("coarse", {"u_threshold": 0.75}, lambda x, y, s: coarse(x, y, s)),
    ("speculative", {"k": 2}, lambda x, y, s: y),
    ("speculative", {"k": 2, "b_prob": 2, "drafting": Drafting.TRIGGERED}, lambda x, y, s: y),
    ("speculative", {"k": 1, "b_prob": 2, "draft_length": 5, "pending_data": PendingData.COARSE}, lambda x, y, s: y),
    ("speculative", {"k": 3, "drafting": Drafting.TRIGGERED, "pending_data": PendingData.COARSE}, lambda x, y, s: y),
    ("exact", {"k": 2, "b_prob": 2, "u_threshold": None}, lambda x, y, s: y),
    ("exact", {"k": 2, "b_prob": 2}, lambda x, y, s: verified(cut_down(x, 2, 2), y, s, cut_down(x, 2, 2))),
    ("coarse", {"u_threshold": 0.75, "b_prob": 2}, lambda x, y, s: coarse(lumped(x, s, 2), y, s)),
]


@pytest.mark.parametrize(
    ("mode", "changes", "expected"), CASES, ids=[f"{mode} {changes}" for mode, changes, _ in CASES]
)
def test_transitions_follow_the_law_of_the_mode(mode: str, changes: dict[str, Any], expected: Any) -> None:
    point = operating_point(mode, **{"b_prob": BITS, **changes})
    answer = decode(fake_pair(), point, "go", seed=11, max_tokens=TOKENS)
    tokens = np.array([3, *(step.token for step in answer.steps)])  # the prompt ends with 3
    for before in range(6):
        x, y = law(SLM[before].astype(float)), law(LLM[before].astype(float))
        s = gate(SLM[before], point.u_threshold or 0.0)
        wanted = expected(x, y, s)
        assert wanted.sum() == pytest.approx(1.0)
        assert drawn_from(wanted, tokens[1:][tokens[:-1] == before]), before


@pytest.mark.parametrize("mode", ["u-hlm", "cu-hlm-offline", "exact"])
def test_redraws_come_from_the_residual_of_what_was_sent(mode: str) -> None:
    """norm((y - x_hat)+), not norm((y - x)+): seen on rejected drafts alone, where the two are far apart."""
    answer = decode(
        fake_pair(), operating_point(mode, k=1, u_threshold=None, b_prob=BITS), "go", seed=6, max_tokens=2 * TOKENS
    )
    redrawn: list[list[int]] = [[] for _ in range(6)]
    before = 3
    for step in answer.steps:
        if step.accepted is False:
            redrawn[before].append(step.token)
        before = step.token
    for state, tokens in enumerate(redrawn):
        x, y = law(SLM[state].astype(float)), law(LLM[state].astype(float))
        excess = np.maximum(y - (x if mode == "u-hlm" else cut(x, 1)), 0)
        assert drawn_from(excess / excess.sum(), tokens)


def test_the_cases_tell_the_modes_apart() -> None:
    """The fake pair skips, rejects and truncates enough for a wrong law to be seen."""
    x, y = law(SLM[3].astype(float)), law(LLM[3].astype(float))
    risks = [
        (gate(SLM[v], 0.49) * np.maximum(law(SLM[v].astype(float)) - law(LLM[v].astype(float)), 0)).sum()
        for v in range(6)
    ]
    assert max(risks) > 0.1
    assert np.abs(x - y).sum() / 2 > 0.1
    assert any(gate(SLM[v], 0.75).sum() > 1 for v in range(6))


def test_coarse_skipping_has_bias_equal_to_the_skip_risk() -> None:
    """TV(output, y) = E[s beta], enumerated: the identity that the two columns of the result report [N, THEORY 5]."""
    for before in range(6):
        x, y = law(SLM[before].astype(float)), law(LLM[before].astype(float))
        s = gate(SLM[before], 0.75)
        distance = np.abs(coarse(x, y, s) - y).sum() / 2
        assert distance == pytest.approx((s * np.maximum(x - y, 0)).sum(), abs=1e-12)


@pytest.mark.parametrize("mode", ["u-hlm", "coarse", "query", "cu-hlm-offline", "exact"])
def test_measured_risk_is_the_enumerated_one(mode: str) -> None:
    """risk_expected is the mean of sum_v s_v (x_v - y_v)+ over the positions visited; bias_skip estimates it."""
    point = operating_point(mode, u_threshold=0.75, b_prob=BITS)
    answer = decode(fake_pair(), point, "go", seed=5, max_tokens=TOKENS)
    before = [3, *(step.token for step in answer.steps)][:-1]
    risk, bias = np.empty(6), np.empty(6)
    for v in range(6):
        x, y, s = law(SLM[v].astype(float)), law(LLM[v].astype(float)), gate(SLM[v], 0.75)
        x = {"exact": cut_down(x, 2, BITS), "coarse": lumped(x, s, BITS)}.get(mode, x)
        risk[v] = (s * np.maximum(x - y, 0)).sum()
        bias[v] = np.abs(s * x - (s * x).sum() * y).sum() / 2 if mode == "query" else risk[v]
    assert answer.risk_expected == pytest.approx(bias[before].mean(), abs=1e-6)
    betas = [step.risk.beta or 0.0 for step in answer.steps if step.risk is not None]
    assert len(betas) == len(answer.steps)
    error = np.std(betas) / np.sqrt(len(betas))
    assert answer.bias_skip == pytest.approx(risk[before].mean(), abs=4 * error)


def test_online_surrogate_reads_the_draft() -> None:
    """k(t) as published: the smallest grid size with U(u, x_d) <= theta, recomputed for every upload."""
    point = operating_point("cu-hlm-online", distortion=Distortion.SURROGATE, theta=0.6, u_threshold=None)
    answer = decode(fake_pair(), point, "go", seed=2, max_tokens=200)
    before = 3
    sizes = set()
    for step in answer.steps:
        x = law(SLM[before].astype(float))
        assert step.draft is not None
        assert step.u is not None
        beta = min(max(0.8 * step.u - 0.05, 0), 1)
        x_d = x[step.draft]
        scale = (1 - x_d) * np.log1p(np.exp(-1)) + x_d * np.log1p(np.exp(-beta))
        wanted = next(k for k in range(7) if np.abs(x - cut(x, k)).sum() / scale <= 0.6)
        assert step.entries == wanted
        sizes.add((before, step.entries))
        before = step.token
    assert len(sizes) > len({state for state, _ in sizes}), "k depends on the draft, not on the context alone"


@pytest.mark.parametrize("mode", ["hlm", "u-hlm", "coarse", "query", "exact"])
def test_first_token_of_the_tiny_pair(mode: str) -> None:
    """Over seeds, the first token follows the law of the mode: streams of different seeds are independent."""
    pair = load_pair("tiny")
    prompt = pair.llm.chat_tokens("ab")
    for model in (pair.slm, pair.llm):
        model.truncate(0, 0)
    slm, llm = (model.extend({0: prompt}, last_only=True)[0][-1].astype(float) for model in (pair.slm, pair.llm))
    x, y = law(slm), law(llm)
    threshold = float(1 - np.mean([law(slm / theta).max() for theta in (np.arange(4000) + 0.5) / 2000])) + 1e-3
    point = operating_point(mode, u_threshold=threshold, k=3)
    firsts = [decode(pair, point, "ab", seed=seed, max_tokens=1).steps[0].token for seed in range(1500)]
    s = gate(slm, threshold)
    x_hat = cut(x, 3)
    wanted = {
        "hlm": y,
        "u-hlm": verified(x, y, s, x),
        "coarse": coarse(x, y, s),
        "query": s * x + (1 - (s * x).sum()) * y,
        "exact": verified(x_hat, y, s, x_hat),
    }[mode]
    assert drawn_from(wanted, firsts)
