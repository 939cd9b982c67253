"""The output law of whole answers written in rounds of several drafts, by enumeration over drafts and coins.

The laws of both models depend on the whole prefix. Nothing is sampled: every draft sequence of a round is summed over,
with the round's law from `verification.Round`, which is what the decoder samples from.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from cuhlm_opt.codec import lumped_law
from cuhlm_opt.distributions import rejection_probability, total_variation
from cuhlm_opt.truncation import largest, reconstruct
from cuhlm_opt.uncertainty import mean_uncertainty
from cuhlm_opt.verification import CoarseProposal, Proposal, Round, Upload

ROUNDING = 1e-12
Prefix = tuple[int, ...]
Sequences = dict[Prefix, float]
Sent = Callable[[np.ndarray, int], tuple[np.ndarray, Callable[[int], Upload]]]
"""From x and k to the law of the drafts and what is uploaded for each."""


class Models:
    """x and y at every prefix, drawn when they are first asked for; some laws have zeros."""

    def __init__(self, seed: int, size: int) -> None:
        self.size = size
        self._rng = np.random.default_rng(seed)
        self._laws: dict[Prefix, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, prefix: Prefix) -> tuple[np.ndarray, np.ndarray]:
        if prefix not in self._laws:
            x, y = self._rng.dirichlet(np.full(self.size, 0.7), size=2)
            if self._rng.random() < 0.2:
                y[self._rng.integers(self.size)] = 0.0
            self._laws[prefix] = x, y / y.sum()
        return self._laws[prefix]

    def u_bar(self, prefix: Prefix) -> np.ndarray:
        return mean_uncertainty(np.log(self(prefix)[0]), np.arange(self.size))


def truncated(x: np.ndarray, k: int) -> tuple[np.ndarray, Callable[[int], Upload]]:
    kept = largest(x, k)
    x_hat = reconstruct(kept, x[kept], len(x))
    return x_hat, lambda d: Proposal(draft=d, law=x_hat)


def coarse(x: np.ndarray, k: int) -> tuple[np.ndarray, Callable[[int], Upload]]:
    """With masses rounded down, as they are sent; one token at least is in the lump."""
    kept = largest(x, min(k, len(x) - 1))
    masses = np.floor(x[kept] * 15) / 15
    return lumped_law(x, kept, masses), lambda d: CoarseProposal(
        kept=kept, masses=masses, draft=d if d in kept else None
    )


def draft_sequences(
    models: Models, prefix: Prefix, most: int, stops: Callable[[Prefix, int], bool], sent: Sent, k: int
) -> Iterator[tuple[Prefix, tuple[Upload, ...], float]]:
    """Every sequence that the device may draft behind `prefix`, with its uploads and its probability."""
    drafting = [((), (), 1.0)]
    while drafting:
        drafts, uploads, probability = drafting.pop()
        law, upload = sent(models(prefix + drafts)[0], k)
        for d in np.flatnonzero(law).tolist():
            longer = ((*drafts, d), (*uploads, upload(d)), probability * float(law[d]))
            if len(longer[0]) == most or stops(prefix + drafts, d):
                yield longer
            else:
                drafting.append(longer)


def written(length: int, size: int, one_round: Callable[[Prefix], Sequences]) -> Sequences:
    """Law of the first `length` tokens of an answer of rounds."""
    law = dict.fromkeys(product(range(size), repeat=length), 0.0)
    reached: dict[Prefix, float] = {(): 1.0}
    for _ in range(length):
        before, reached = reached, defaultdict(float)
        for prefix, mass in before.items():
            for tokens, probability in one_round(prefix).items():
                text = prefix + tokens
                if len(text) >= length:
                    law[text[:length]] += mass * probability
                else:
                    reached[text] += mass * probability
    assert not reached
    return law


def speculative(models: Models, most: int, stops: Callable[[Prefix, int], bool], sent: Sent, k: int):
    """One round with roll back."""

    def one_round(prefix: Prefix) -> Sequences:
        law: Sequences = defaultdict(float)
        for drafts, uploads, probability in draft_sequences(models, prefix, most, stops, sent, k):
            y = [models(prefix + drafts[:n])[1] for n in range(len(drafts) + 1)]
            for tokens, share in Round(drafts=drafts, uploads=uploads).law(y).items():
                law[tokens] += probability * share
        assert sum(law.values()) == pytest.approx(1, abs=ROUNDING)
        return law

    return one_round


def own_law(models: Models, length: int, which: int = 1) -> Sequences:
    """Product of y's (or x's) along each sequence."""
    return {
        word: float(np.prod([models(word[:n])[which][word[n]] for n in range(length)]))
        for word in product(range(models.size), repeat=length)
    }


def distance(p: Sequences, q: Sequences) -> float:
    return 0.5 * sum(abs(p[word] - q[word]) for word in q)


def above(models: Models, threshold: float) -> Callable[[Prefix, int], bool]:
    return lambda prefix, d: bool(models.u_bar(prefix)[d] > threshold)


CASES = [(seed, *sizes) for seed in range(4) for sizes in ((2, 3), (3, 3), (4, 2))]
each_case = pytest.mark.parametrize(("seed", "size", "length"), CASES)
each_data = pytest.mark.parametrize("sent", [truncated, coarse])


@each_case
@each_data
def test_fixed_rounds_give_the_law_of_the_llm(seed, size, length, sent):
    """Roll back is exact for every g and every k [N, THEORY 7.1]."""
    models = Models(seed, size)
    for most in range(1, length + 1):
        for k in range(size + 1):
            law = written(length, size, speculative(models, most, lambda *_: False, sent, k))
            assert distance(law, own_law(models, length)) < ROUNDING


@each_case
@each_data
def test_triggered_rounds_give_the_law_of_the_llm(seed, size, length, sent):
    """The token that stops drafting is tested too: exact for every threshold, every most and every k."""
    models = Models(seed, size)
    for threshold in (0.0, 0.2, 0.45, 0.7):
        for most in (2, 3):
            for k in range(size + 1):
                law = written(length, size, speculative(models, most, above(models, threshold), sent, k))
                assert distance(law, own_law(models, length)) < ROUNDING


@each_case
def test_drafting_may_read_the_draft_in_any_way(seed, size, length):
    """Any stopping rule of context and draft is exact, since whatever was drafted is tested."""
    models, rng = Models(seed, size), np.random.default_rng(seed)
    rules: dict[tuple[Prefix, int], bool] = {}

    def stops(prefix: Prefix, d: int) -> bool:
        return rules.setdefault((prefix, d), bool(rng.random() < 0.5))

    law = written(length, size, speculative(models, 3, stops, truncated, 1))
    assert distance(law, own_law(models, length)) < ROUNDING


def dropping(models: Models, most: int, threshold: float, length: int) -> Sequences:
    """A wrong variant: the draft that stopped drafting is thrown away untested, and its place is drawn from y."""
    stops = above(models, threshold)

    def one_round(prefix: Prefix) -> Sequences:
        law: Sequences = defaultdict(float)
        for drafts, uploads, probability in draft_sequences(models, prefix, most, stops, truncated, models.size):
            stopped = stops(prefix + drafts[:-1], drafts[-1])
            kept = len(drafts) - stopped
            y = [models(prefix + drafts[:n])[1] for n in range(kept + 1)]
            for tokens, share in Round(drafts=drafts[:kept], uploads=uploads[:kept]).law(y).items():
                law[tokens] += probability * share
        return law

    return written(length, models.size, one_round)


def test_dropping_the_token_that_stopped_drafting_is_biased():
    """The place of that token is drawn from y whatever was drafted there, and from a tested draft where it was sure.

    For one token, with S = sum_v s_v min(x_v, y_v) the tested part and R = sum_v s_v (x_v - y_v)+ its rejections, the
    output is s_v min(x_v, y_v) + R norm((y - x)+)_v + (1 - S - R) y_v.
    """
    biases = []
    for seed, size, length in CASES:
        models = Models(seed, size)
        for threshold in (0.2, 0.45, 0.7):
            biases.append(distance(dropping(models, 2, threshold, length), own_law(models, length)))
        x, y = models(())
        sure = models.u_bar(()) <= 0.45
        tested, excess = sure * np.minimum(x, y), np.maximum(y - x, 0.0)
        refused = float((sure * np.maximum(x - y, 0.0)).sum())
        output = tested + refused * excess / excess.sum() + (1.0 - tested.sum() - refused) * y
        first = dropping(models, 2, 0.45, 1)
        assert [first[(v,)] for v in range(size)] == pytest.approx(output.tolist(), abs=ROUNDING)
        wanted = abs(output - y).sum() / 2
        if size == 2 and sure.tolist() in ([True, False], [False, True]):
            x1, y1 = x[sure][0], y[sure][0]
            assert wanted == pytest.approx(min(x1 * (1 - y1), y1 * (1 - x1)), abs=ROUNDING)
    assert np.mean(biases) > 0.03
    assert max(biases) > 0.2


@each_case
def test_keeping_has_the_skip_risk(seed, size, length):
    """Keep is skipping: at each prefix TV = E[s beta], and the sum of these bounds the answer [N, THEORY 4.3, 4.8]."""
    models = Models(seed, size)
    for threshold in (0.2, 0.45, 0.7):
        stops = above(models, threshold)

        def one_round(prefix: Prefix, stops: Callable[[Prefix, int], bool] = stops) -> Sequences:
            law: Sequences = defaultdict(float)
            for drafts, uploads, probability in draft_sequences(models, prefix, length, stops, truncated, size):
                if not stops(prefix + drafts[:-1], drafts[-1]):
                    law[drafts] += probability  # the answer is full: nothing asks any more
                    continue
                for token, share in enumerate(uploads[-1].verify(models(prefix + drafts[:-1])[1]).law()):
                    law[(*drafts[:-1], token)] += probability * share
            return law

        law, total = written(length, size, one_round), 0.0
        for n in range(length):
            for prefix in product(range(size), repeat=n):
                x, y = models(prefix)
                sure = models.u_bar(prefix) <= threshold
                reached = sum(law[word] for word in law if word[:n] == prefix)
                if reached == 0:
                    continue
                within = [sum(law[w] for w in law if w[: n + 1] == (*prefix, v)) / reached for v in range(size)]
                risk = float(x @ (sure * rejection_probability(x, y)))
                assert total_variation(np.array(within), y) == pytest.approx(risk, abs=1e-11)
                total += reached * risk
        assert distance(law, own_law(models, length)) <= total + ROUNDING


def test_a_round_without_drafts_is_a_draw_from_y():
    y = np.array([0.2, 0.5, 0.3])
    assert Round(drafts=(), uploads=()).law([y]) == {(0,): 0.2, (1,): 0.5, (2,): 0.3}


def test_a_last_draft_that_ends_the_answer_is_followed_by_nothing():
    """One law fewer: the round ends with the draft where that stands."""
    x, y = np.array([0.5, 0.5]), np.array([0.2, 0.8])
    drafted = Round(drafts=(1, 0), uploads=(Proposal(draft=1, law=x), Proposal(draft=0, law=x)))
    law = drafted.law([y, y])
    assert law == pytest.approx({(1, 0): 0.4, (1, 1): 0.6})


@each_data
def test_sampled_rounds_follow_their_law(sent):
    """Each outcome's count lies within five standard errors."""
    models, rng, draws = Models(1, 4), np.random.default_rng(0), 20_000
    drafts, uploads = (), ()
    for d in (1, 0):
        law, upload = sent(models(drafts)[0], 2)
        assert law[d] > 0
        drafts, uploads = (*drafts, d), (*uploads, upload(d))
    y = [models(drafts[:n])[1] for n in range(3)]
    drafted = Round(drafts=drafts, uploads=uploads)
    counts: dict[Prefix, int] = defaultdict(int)
    for _ in range(draws):
        counts[drafted.sample(y, rng)] += 1
    law = drafted.law(y)
    assert set(counts) <= set(law)
    for tokens, probability in law.items():
        error = np.sqrt(probability * (1 - probability) / draws)
        assert abs(counts[tokens] / draws - probability) <= 5 * error + 1e-12
