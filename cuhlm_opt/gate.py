"""All that the device reads from the logits of one step: x, a draft, u_bar, k and the entries to send [N, THEORY 4].

The logits are sorted once. u_bar takes its partition function from groups of neighbours in rank, k and drafts their
masses from sums of blocks, the entries to send are those from the k-th largest logit on: what is left to do over all
of |V| is one exponential and one sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law, Logits, nucleus_size
from cuhlm_opt.signals import Signal, value_of
from cuhlm_opt.truncation import RankedLaw, largest_from
from cuhlm_opt.uncertainty import SAMPLES, THETA_MAX, PerturbedLogits, mean_uncertainty, sampled_uncertainty


class Step:
    """The logits of one step and the draft law x that they give, sorted once; whatever else is asked for is cheap.

    Args:
        logits: shape (|V|,), natural-log scale, not all -inf.
        temperature: divides the logits, >= 0; 0 is the point mass on the first largest logit.
        top_p: nucleus mass in (0, 1]: the smallest set of most likely tokens that reaches it is kept.

    Example:
        >>> step = Step(np.array([0.0, 2.0, 1.0]))
        >>> step.law.round(3).tolist(), step.smallest_size(0.1), step.largest(1).tolist()
        ([0.09, 0.665, 0.245], 1, [1])
    """

    def __init__(self, logits: Law, temperature: float = 1.0, top_p: float = 1.0) -> None:
        self._logits, self._temperature = logits, temperature
        self._ascending = np.sort(logits)
        gaps = self._ascending - self._ascending[-1]
        self._perturbed = PerturbedLogits(logits, gaps)
        weights = self._weigh(gaps)
        vocab_size = len(logits)
        self._support = vocab_size
        if temperature == 0:
            self._support = 1
        elif top_p < 1:
            self._support = nucleus_size(weights[::-1], top_p)
        weights[: vocab_size - self._support] = 0.0
        self._ranked = RankedLaw(weights)

    @property
    def vocab_size(self) -> int:
        """|V|."""
        return len(self._logits)

    @property
    def logits(self) -> Law:
        """Shape (|V|,)."""
        return self._logits

    @property
    def perturbed(self) -> PerturbedLogits:
        """The logits at any temperature."""
        return self._perturbed

    @property
    def ranked(self) -> RankedLaw:
        """X in increasing order, as weights."""
        return self._ranked

    @cached_property
    def law(self) -> NDArray[np.float64]:
        """x, shape (|V|,)."""
        return self.masses(slice(None))

    @cached_property
    def argmax(self) -> int:
        """The first token of the largest logit."""
        return int(np.argmax(self.logits))

    def draw(self, rng: np.random.Generator) -> int:
        """A token drawn from x with exactly one uniform of `rng`, by inversion over the ranks."""
        index = self.ranked.index_at(rng.random() * self.ranked.total)
        logit = self._ascending[index]
        above = int(np.searchsorted(self._ascending, logit, side="right")) - 1 - index  # ties: the first ranks highest
        return int(np.flatnonzero(self.logits == logit)[above])

    def masses(self, tokens: NDArray[np.integer] | slice) -> NDArray[np.float64]:
        """Masses of `tokens` under x."""
        weights = self._weigh(self.logits[tokens] - self._ascending[-1]).astype(np.float64)
        if self._support < len(self.logits):
            inside = np.zeros(len(self.logits), dtype=bool)
            inside[self.largest(self._support)] = True
            weights[~inside[tokens]] = 0.0
        weights /= self.ranked.total
        return weights

    def largest(self, k: int) -> NDArray[np.intp]:
        """Ids of the k largest logits, ties by id, in no particular order."""
        k = min(k, len(self.logits))
        return largest_from(self.logits, k, self._ascending[-k]) if k else np.empty(0, dtype=np.intp)

    def smallest_size(self, tolerance: float) -> int:
        """Smallest k with TV(x, x_hat_k) <= tolerance, from x alone [N, THEORY 4.4, 4.6]."""
        return self.ranked.smallest_size(tolerance)

    def u_bar(self, tokens: NDArray[np.integer], theta_max: float = THETA_MAX) -> NDArray[np.float64]:
        """u_bar of `tokens`, as `mean_uncertainty`."""
        return mean_uncertainty(self.perturbed, tokens, theta_max)

    def _weigh(self, gaps: Law) -> Law:
        """exp(gap / temperature), in place; 1 at temperature 0, where the support leaves one entry."""
        if self._temperature == 0:
            return np.ones_like(gaps)
        gaps /= gaps.dtype.type(self._temperature)
        return np.exp(gaps, out=gaps)


def read_steps(rows: Sequence[Logits], temperature: float = 1.0, top_p: float = 1.0) -> Sequence[Step]:
    """The steps behind rows of logits, which a model gave as arrays, or as tensors of one device: then sorted there.

    Args:
        rows: shape (|V|,) each, at least one; all of one kind.
        temperature: as in `Step`.
        top_p: as in `Step`.
    """
    if isinstance(rows[0], np.ndarray):
        return [Step(row, temperature, top_p) for row in rows]
    import torch

    from cuhlm_opt.models.torch_gate import TorchStep

    return TorchStep.batch(torch.stack(list(rows)), temperature, top_p)


@dataclass(frozen=True)
class StepFeatures:
    """Features of one draft, each computed when it is read; shape (1,)."""

    step: Step
    token: int

    @property
    def u_bar(self) -> NDArray[np.float64]:
        """Integral uncertainty of the draft."""
        return self.step.u_bar(np.array([self.token]))

    @property
    def x_d(self) -> NDArray[np.float64]:
        """Probability of the draft."""
        return self.step.masses(np.array([self.token]))

    @property
    def p_max(self) -> NDArray[np.float64]:
        """Largest probability."""
        return self.step.ranked.largest_masses(1)

    @property
    def margin(self) -> NDArray[np.float64]:
        """Largest minus second largest probability."""
        second, first = self.step.ranked.largest_masses(2)
        return np.array([first - second])

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Entropy of x, nats."""
        return np.array([self.step.ranked.entropy])


def read_signal(signal: Signal, weights: Sequence[float], step: Step, token: int, rng: np.random.Generator) -> float:
    """A signal of the draft `token`, drawn from x, in [0, 1]; only what it is made of is computed.

    Args:
        signal: which.
        weights: of `Signal.COMBINED`.
        step: where the draft was drawn.
        token: the draft.
        rng: of the sampled signals.
    """
    if signal.is_sampled:
        return sampled_uncertainty(step.perturbed, token, rng, signal.samples or SAMPLES)
    return float(value_of(signal, StepFeatures(step, token), weights)[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What `read_step` finds."""

    draft: int
    """Token drawn from x."""
    argmax: int
    """First token of the largest logit."""
    u_bar: float
    """u_bar of the draft."""
    u_bar_argmax: float
    """u_bar of the argmax."""
    kept: NDArray[np.intp]
    """Ids of the k largest entries of x, shape (k,), in no particular order."""
    masses: NDArray[np.float64]
    """Their masses."""


def read_step(
    logits: Law, rng: np.random.Generator, tolerance: float, *, temperature: float = 1.0, top_p: float = 1.0
) -> Reading:
    """Everything that one step may need: a draft, u_bar of it and of the argmax, k, and the entries to send.

    Args:
        logits: shape (|V|,).
        rng: stream of the draft.
        tolerance: largest TV(x, x_hat_k) that k may leave, in [0, 1].
        temperature: as in `Step`.
        top_p: as in `Step`.

    Example:
        >>> reading = read_step(np.array([0.0, 9.0, 1.0]), np.random.default_rng(0), 0.01)
        >>> reading.draft, reading.kept.tolist(), reading.masses.round(4).tolist()
        (1, [1], [0.9995])
    """
    step = Step(logits, temperature, top_p)
    draft = step.draw(rng)
    u_bar = step.u_bar(np.array([draft, step.argmax]))
    kept = step.largest(step.smallest_size(tolerance))
    return Reading(
        draft=draft,
        argmax=step.argmax,
        u_bar=float(u_bar[0]),
        u_bar_argmax=float(u_bar[1]),
        kept=kept,
        masses=step.masses(kept),
    )
