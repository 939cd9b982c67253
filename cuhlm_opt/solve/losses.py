"""Losses of prompts along a grid of thresholds: what a certificate is about [N, THEORY 6.1, 6.4]."""

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.records import T_LIMIT

Array = NDArray[np.float64]


class LossUnit(StrEnum):
    """What the skip risk of an answer is divided by. All three lie in [0, 1] and are nondecreasing in t."""

    ALLOWED = "allowed"
    """The length limit T_max [N, THEORY 6.4]: E[sum of risk] <= T_max eps, which by THEORY 4.8 bounds the total
    variation of whole answers. Answers that end early dilute it: per emitted token the risk may be above eps."""
    EMITTED = "emitted"
    """The mean length: E[sum of risk] <= eps E[length]. Tokens an answer did not use are charged at eps,
    L_i = (sum + eps (T_max - length_i)) / T_max, so that E[L] <= eps says just that."""
    ANSWER = "answer"
    """The answer's own length: the mean over prompts of the mean over their tokens. Never below `ALLOWED`, hence
    the bound on whole answers holds as well."""


def threshold_grid(step: float = 0.005) -> Array:
    """Thresholds that may be certified: multiples of `step` below `T_LIMIT`, and 1. Fixed before any data are seen.

    >>> threshold_grid(0.25).tolist()
    [0.25, 0.5, 0.75, 1.0]
    """
    return np.append(np.arange(1, np.ceil(T_LIMIT / step)) * step, 1.0)


def prompt_curves(
    prompt: NDArray[np.integer], top_u_bar: Array, weight: Array, grid: Array, total: NDArray[Any] | None = None
) -> Array:
    """Sums over the tokens of each prompt of sum_v 1[u_bar_v <= t] weight_v, for t on a grid.

    With weight = x it counts skips, with weight = (x - y)+ it is the skip risk [N, THEORY 6.1].

    Args:
        prompt: index of the prompt per position, shape (N,), 0 .. n - 1.
        top_u_bar: u_bar of the most likely tokens, shape (N, m), in [0, 1].
        weight: shape (N, m), >= 0.
        grid: ascending thresholds, shape (G,); those from `T_LIMIT` up need `total`, and must then be 1.
        total: value of a prompt where every token is skipped, shape (n,), for t = 1.

    Returns:
        Shape (n, G), nondecreasing along the grid.
    """
    inner = grid[grid < T_LIMIT]
    if not np.all(np.diff(grid) > 0) or not np.all(grid[len(inner) :] == (1.0 if total is not None else np.nan)):
        raise InputError(f"grid of thresholds {grid} is not allowed; give ascending values below {T_LIMIT}, then 1")
    n, levels = int(prompt.max(initial=-1)) + 1 if total is None else len(total), len(inner)
    row, token = np.nonzero(top_u_bar <= (inner[-1] if levels else -1.0))
    level = np.searchsorted(inner, top_u_bar[row, token])
    cells = np.bincount(prompt[row] * levels + level, weights=weight[row, token], minlength=n * levels)
    curves: Array = np.cumsum(cells.reshape(n, levels), axis=1, dtype=np.float64)
    if total is not None and len(grid) > levels:
        last = curves[:, -1] if levels else 0.0
        curves = np.column_stack([curves, np.maximum(total, last)])  # columns are rounded to float32 one by one
    return curves


def prompt_losses(
    prompt: NDArray[np.integer],
    top_u_bar: Array,
    top_x: Array,
    top_y: Array,
    tv: Array,
    *,
    grid: Array,
    max_tokens: int,
    unit: LossUnit = LossUnit.ALLOWED,
    eps: float | None = None,
) -> Array:
    """L_i(t) = sum over the tokens of prompt i of risk(t), divided as `unit` says [N, THEORY 6.1, 6.4].

    Args:
        prompt: index of the prompt per position, shape (N,), 0 .. n - 1, every index present.
        top_u_bar: u_bar of the most likely tokens, shape (N, m).
        top_x: their probabilities under the SLM, shape (N, m).
        top_y: their probabilities under the LLM, shape (N, m).
        tv: TV(x, y), shape (N,): the risk where everything is skipped, t = 1.
        grid: from `threshold_grid`, shape (G,).
        max_tokens: T_max, the length limit of the recorded answers.
        unit: the divisor, and so what is certified.
        eps: the budget, for `LossUnit.EMITTED` alone.

    Returns:
        Shape (n, G), in [0, 1], nondecreasing along the grid.

    Raises:
        InputError: an answer is longer than `max_tokens`, or `eps` is missing.
    """
    risk = np.maximum(np.subtract(top_x, top_y, dtype=np.float64), 0.0)  # records are float32
    sums = prompt_curves(prompt, top_u_bar, risk, grid, np.bincount(prompt, tv))
    return losses_of(sums, np.bincount(prompt), max_tokens=max_tokens, unit=unit, eps=eps)


def losses_of(
    sums: Array, lengths: NDArray[np.integer], *, max_tokens: int, unit: LossUnit, eps: float | None = None
) -> Array:
    """Losses from the risk summed over each prompt's tokens, shape (n, G), and the lengths, shape (n,)."""
    if lengths.max() > max_tokens:
        raise InputError(f"max_tokens {max_tokens} is not allowed; an answer of {lengths.max()} tokens is recorded")
    if unit is LossUnit.ANSWER:
        losses = sums / lengths[:, None]
    elif unit is LossUnit.EMITTED:
        if eps is None:
            raise InputError("eps is missing; the loss per emitted token depends on the budget")
        losses = (sums + eps * (max_tokens - lengths)[:, None]) / max_tokens
    else:
        losses = sums / max_tokens
    return np.minimum(losses, 1.0)  # float32 columns may sum to 1 + 1e-7
