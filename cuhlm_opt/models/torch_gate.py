"""The reading of a step for logits that are torch tensors: a batch at once, on the device where they lie.

The algorithm is that of `cuhlm_opt.gate`: one sort, groups of neighbours in rank, tail masses from one cumulative sum.
Nothing waits for the device in `read_batch`: results are tensors there, and k stands beside the sorted ids instead of
cutting them. `TorchStep` is one step of a batch as the device's policy and the scorer take it: what it is asked for
comes to the host, which is little; the rest stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuhlm_opt.distributions import on_host
from cuhlm_opt.gate import Step
from cuhlm_opt.truncation import RankedLaw
from cuhlm_opt.uncertainty import MEAN_NODES, THETA_MAX, PerturbedLogits, groups_of_rank, quadrature_nodes


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchReading:
    """What `read_batch` finds for each of B steps; every field is a tensor on the device of the logits."""

    draft: Any
    """Tokens drawn from x, shape (B,)."""
    argmax: Any
    """Tokens of the largest logits, the first of ties, shape (B,)."""
    u_bar: Any
    """u_bar of the drafts, float64, shape (B,)."""
    u_bar_argmax: Any
    """u_bar of the argmax, float64, shape (B,)."""
    k: Any
    """Smallest k with TV(x, x_hat_k) <= tolerance, shape (B,)."""
    ids: Any
    """Token ids by decreasing logit, ties by id, shape (B, |V|): the first k of a row are to be sent."""
    masses: Any
    """x in that order, float64, shape (B, |V|)."""


def read_batch(
    logits: Any,
    uniforms: Any,
    tolerance: float,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    theta_max: float = THETA_MAX,
) -> BatchReading:
    """Draft, u_bar of it and of the argmax, k and the entries to send, for a batch of steps.

    Args:
        logits: float32 tensor of shape (B, |V|).
        uniforms: the draft of row b is the inverse of x at uniforms[b] in [0, 1), float64, shape (B,), on the device;
            the same uniform gives the token of `gate.Step.draw`, as far as rounding allows.
        tolerance: largest TV(x, x_hat_k) that k may leave, in [0, 1].
        temperature: divides the logits, >= 0; 0 is the point mass on the first largest logit.
        top_p: nucleus mass in (0, 1].
        theta_max: largest perturbing temperature, > 0.
    """
    with torch.no_grad():
        ordered, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
        gaps = ordered - ordered[:, :1]
        masses = _masses(gaps, temperature, top_p)
        place = _inversion(masses, uniforms)
        chosen = torch.cat([place, torch.zeros_like(place)], dim=1)
        u_bar = _u_bar(gaps, torch.gather(gaps, 1, chosen), theta_max)
        tokens = torch.gather(ids, 1, chosen)
        k = _smallest_size(masses, tolerance)
    return BatchReading(
        draft=tokens[:, 0],
        argmax=tokens[:, 1],
        u_bar=u_bar[:, 0],
        u_bar_argmax=u_bar[:, 1],
        k=k,
        ids=ids,
        masses=masses,
    )


class TorchStep(Step):
    """`gate.Step` for logits that are a tensor.

    Args:
        logits: shape (|V|,), float32.
        ordered: the same by decreasing value, ties by id.
        ids: the ids in that order.
        masses: x in that order, float64.
    """

    def __init__(self, logits: Any, ordered: Any, ids: Any, masses: Any) -> None:
        self._tensor, self._ordered, self._ids, self._masses = logits, ordered, ids, masses
        self._gaps = ordered - ordered[:1]

    @classmethod
    def batch(cls, logits: Any, temperature: float = 1.0, top_p: float = 1.0) -> Sequence["TorchStep"]:
        """The steps of logits of shape (B, |V|), sorted at once."""
        with torch.inference_mode():
            ordered, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
            masses = _masses(ordered - ordered[:, :1], temperature, top_p)
        return [cls(*rows) for rows in zip(logits, ordered, ids, masses, strict=True)]

    @property
    def vocab_size(self) -> int:
        """|V|."""
        return len(self._tensor)

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Shape (|V|,), on the host."""
        return on_host(self._tensor)

    @cached_property
    def perturbed(self) -> PerturbedLogits:
        """The logits at any temperature, on the host, for the sampled signals."""
        return PerturbedLogits(self.logits, on_host(self._gaps.flip(0)))

    @cached_property
    def ranked(self) -> RankedLaw:
        """X in increasing order, on the host."""
        return RankedLaw(on_host(self._masses.flip(0)))

    @cached_property
    def argmax(self) -> int:
        """The first token of the largest logit."""
        return int(self._ids[0])

    def draw(self, rng: np.random.Generator) -> int:
        """As `gate.Step.draw`: from the same uniform the same token, but for the last digit of a sum."""
        uniform = torch.tensor([rng.random()], dtype=torch.float64, device=self._tensor.device)
        with torch.inference_mode():
            return int(self._ids[_inversion(self._masses[None], uniform)[0, 0]])

    def masses(self, tokens: NDArray[np.integer] | slice) -> NDArray[np.float64]:
        """Masses of `tokens` under x."""
        return on_host(self._by_id[self._index(tokens)])

    def largest(self, k: int) -> NDArray[np.intp]:
        """Ids of the k largest logits, ties by id, in no particular order."""
        return on_host(self._ids[:k]).astype(np.intp)

    def smallest_size(self, tolerance: float) -> int:
        """Smallest k with TV(x, x_hat_k) <= tolerance."""
        with torch.inference_mode():
            return int(_smallest_size(self._masses[None], tolerance)[0])

    def u_bar(self, tokens: NDArray[np.integer], theta_max: float = THETA_MAX) -> NDArray[np.float64]:
        """u_bar of `tokens`."""
        with torch.inference_mode():
            own = self._tensor[self._index(tokens)] - self._ordered[0]
            return on_host(_u_bar(self._gaps[None], own[None], theta_max)[0])

    @cached_property
    def _by_id(self) -> Any:
        with torch.inference_mode():
            return torch.empty_like(self._masses).scatter_(0, self._ids, self._masses)

    def _index(self, tokens: NDArray[np.integer] | slice) -> Any:
        if isinstance(tokens, slice):
            return tokens
        return torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(self._tensor.device)


def _masses(gaps: Any, temperature: float, top_p: float) -> Any:
    """X in decreasing order, float64, shape (B, |V|)."""
    rank = torch.arange(gaps.shape[1], device=gaps.device)
    if temperature == 0:
        return (rank == 0).double().expand(gaps.shape)
    weights = torch.exp(gaps / temperature).double()
    if top_p < 1:
        running = weights.cumsum(1) / weights.sum(1, keepdim=True)
        weights = torch.where(rank <= (running < top_p).sum(1, keepdim=True), weights, 0.0)
    return weights / weights.sum(1, keepdim=True)


def _inversion(masses: Any, uniforms: Any) -> Any:
    """Ranks drawn by inversion from the least mass upwards, shape (B, 1)."""
    upwards = masses.flip(1).cumsum(1)
    index = torch.searchsorted(upwards, uniforms[:, None] * upwards[:, -1:], right=True)
    return masses.shape[1] - 1 - index.clamp(max=masses.shape[1] - 1)


def _u_bar(gaps: Any, own: Any, theta_max: float) -> Any:
    """u_bar of tokens at the gaps `own`, shape (B, n), float64; see `uncertainty.mean_uncertainty`."""
    size = torch.as_tensor(groups_of_rank(gaps.shape[1])[1][::-1].copy(), device=gaps.device)
    index = torch.repeat_interleave(size, output_size=gaps.shape[1])
    sums = gaps.new_zeros((len(gaps), len(size))).index_add_(1, index, gaps)
    values, weights = sums / size, size.to(gaps.dtype)
    agree = torch.zeros_like(own, dtype=torch.float64)
    for root, weight in zip(*quadrature_nodes(MEAN_NODES), strict=True):
        theta = theta_max * root**2
        agree += weight * root * torch.exp(own / theta).double() / (torch.exp(values / theta) @ weights)[:, None]
    return 1.0 - agree


def _smallest_size(masses: Any, tolerance: float) -> Any:
    """Smallest k with TV(x, x_hat_k) <= tolerance, shape (B,), by bisection; every row takes the same steps."""
    vocab_size = masses.shape[1]
    upwards = masses.flip(1).contiguous()
    least = torch.nn.functional.pad(upwards.cumsum(1), (1, 0))
    low = torch.zeros((len(masses), 1), dtype=torch.int64, device=masses.device)
    high = torch.full_like(low, vocab_size)
    for _ in range(vocab_size.bit_length()):
        middle = (low + high) // 2
        left = vocab_size - middle
        tail = least.gather(1, left)
        mean = tail / left.clamp(min=1)
        flat = torch.minimum(torch.searchsorted(upwards, mean, right=True), left)
        within = tail - least.gather(1, flat) - (left - flat) * mean <= tolerance
        high = torch.where(within, middle, high)
        low = torch.where(within, low, torch.minimum(middle + 1, high))
    return low[:, 0]
