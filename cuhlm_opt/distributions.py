"""Laws over a vocabulary: softmax, sampling, total variation, rejection and the residual law.

A *law* is a float array of shape (|V|,), entries at least 0, summing to 1 within rounding. Sums are taken in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Law = NDArray[np.floating]
Logits = Any
"""One row of what a model returns: a float32 array of shape (|V|,), or a torch tensor of that shape on some device."""


def on_host(values: Any) -> NDArray[Any]:
    """An array as it is, a tensor copied from its device."""
    array: NDArray[Any] = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return array


def softmax(logits: Logits, temperature: float = 1.0, top_p: float = 1.0) -> NDArray[np.float64]:
    """Law that a model samples from.

    Args:
        logits: shape (|V|,), natural-log scale, on the host or a device.
        temperature: divides the logits, > 0; 0 means greedy, the point mass on the first largest logit.
        top_p: nucleus mass in (0, 1]; the smallest set of most likely tokens that reaches it is kept and renormalised.

    Returns:
        float64 law, shape (|V|,). Exponentials are taken in the precision of `logits`.

    Example:
        >>> softmax(np.array([0.0, 0.0])).tolist()
        [0.5, 0.5]
    """
    logits = on_host(logits)
    if temperature == 0:
        law: NDArray[np.float64] = np.zeros(len(logits))
        law[int(np.argmax(logits))] = 1.0
        return law
    weights: NDArray[np.float64] = np.exp((logits - logits.max()) / logits.dtype.type(temperature)).astype(np.float64)
    law = weights / weights.sum()
    if top_p < 1.0:
        order = np.argsort(-law, kind="stable")
        kept = order[: nucleus_size(weights[order], top_p)]
        nucleus = np.zeros_like(law)
        nucleus[kept] = law[kept] / law[kept].sum()
        return nucleus
    return law


def nucleus_size(descending: Law, top_p: float) -> int:
    """Size of the smallest set of most likely tokens that reaches the mass `top_p` in (0, 1].

    Args:
        descending: weights proportional to the law, in decreasing order, shape (|V|,).
        top_p: nucleus mass.

    >>> nucleus_size(np.array([5.0, 4.0, 1.0]), 0.9)
    2
    """
    total, head = descending.sum(dtype=np.float64), 1024
    while True:
        mass = np.cumsum(descending[:head], dtype=np.float64) / total
        if mass[-1] >= top_p or head >= len(descending):
            return min(int(np.searchsorted(mass, top_p)) + 1, len(descending))
        head *= 8


def sample(law: Law, rng: np.random.Generator) -> int:
    """Draw one token from `law` by inversion, using exactly one uniform of `rng`."""
    cumulative = np.cumsum(law, dtype=np.float64)
    token = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    if token < len(law) and law[token] > 0:
        return token
    return min(token, int(np.flatnonzero(law)[-1]))  # rounding of the last sum must not name an impossible token


def total_variation(p: Law, q: Law) -> float:
    """TV(p, q) = 1/2 sum |p - q|, in [0, 1].

    >>> total_variation(np.array([1.0, 0.0]), np.array([0.25, 0.75]))
    0.75
    """
    return 0.5 * float(np.abs(p - q).sum(dtype=np.float64))


def rejection_probability(x: Law | float, y: Law | float) -> NDArray[np.float64]:
    """Beta = (1 - y/x)+, elementwise [P, speculative sampling]; 1 where y = 0, whatever x.

    Args:
        x: probabilities under the law that the draft is tested against.
        y: probabilities under the LLM's law.

    >>> rejection_probability(np.array([0.5, 0.5]), np.array([0.25, 0.75])).tolist()
    [0.5, 0.0]
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    excess = np.maximum(x - y, 0.0)  # over x, this cannot overflow as y/x does for a tiny x
    return np.where(y > 0, np.divide(excess, x, out=np.zeros_like(excess), where=x > 0), 1.0)


def residual_law(y: Law, x: Law) -> NDArray[np.float64]:
    """norm((y - x)+), the law drawn from after a rejection [P, speculative sampling].

    Where (y - x)+ vanishes no rejection has positive probability under exact verification; the fallback is y,
    which keeps the step defined when the draft is tested against another law than `x`.
    """
    excess = np.maximum(np.asarray(y, dtype=np.float64) - x, 0.0)
    mass = excess.sum()
    return excess / mass if mass > 0 else np.asarray(y, dtype=np.float64) / np.sum(y, dtype=np.float64)
