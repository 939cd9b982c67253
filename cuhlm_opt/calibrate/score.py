"""One position scored with both laws: a row of the records."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law, Logits, rejection_probability, residual_law, softmax, total_variation
from cuhlm_opt.gate import read_steps
from cuhlm_opt.quantisation import measured_sizes, quantisation_distances
from cuhlm_opt.records import GRID_STEP, QUANTISED_STEP, TOP
from cuhlm_opt.truncation import reconstruct
from cuhlm_opt.uncertainty import SAMPLES, THETA_MAX, ThetaConvention, sampled_uncertainty


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How positions are scored; part of a calibration's provenance.

    Args:
        temperature: sampling temperature of both models.
        top_p: nucleus mass of both models.
        samples: M of the sampled uncertainty.
        theta_max: largest perturbing temperature.
        convention: how the perturbing temperatures are chosen.
        exact_share: share of positions, drawn at random, that also get the columns of exact bias and of quantisation.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    samples: int = SAMPLES
    theta_max: float = THETA_MAX
    convention: ThetaConvention = ThetaConvention.UNIFORM
    exact_share: float = 0.02


def score_position(
    slm_logits: Logits, llm_logits: Logits, sizes: NDArray[np.int64], scoring: Scoring, rng: np.random.Generator
) -> dict[str, Any]:
    """Score one position.

    Args:
        slm_logits: shape (|V|,), on the host or a device.
        llm_logits: the same.
        sizes: truncation sizes, ending with |V|.
        scoring: how.
        rng: stream of this position's draft, sampled uncertainty and choice for the exact columns.

    Returns:
        The columns of `record_schema` that depend on the two laws.
    """
    step = read_steps([slm_logits], scoring.temperature, scoring.top_p)[0]
    x, y = step.law, softmax(llm_logits, scoring.temperature, scoring.top_p)
    draft = step.draw(rng)
    u_mc = sampled_uncertainty(step.perturbed, draft, rng, scoring.samples, scoring.theta_max, scoring.convention)
    top = step.largest(min(TOP, len(x)))
    top = top[np.argsort(-step.logits[top], kind="stable")]
    u_bar = step.u_bar(np.append(top, draft), scoring.theta_max)
    descending = step.ranked.ascending[::-1] / step.ranked.total
    tail_mass, tv_x_xhat = step.ranked.distances(sizes)
    row = {
        "draft_token": draft,
        "draft_rank": int(np.count_nonzero(x > x[draft])),
        "x_d": x[draft],
        "y_d": y[draft],
        "beta": float(rejection_probability(x[draft], y[draft])),
        "u_mc": u_mc,
        "u_bar": u_bar[-1],
        "tv": total_variation(x, y),
        "entropy": float(-np.sum(x * np.log(np.where(x > 0, x, 1.0)))),
        "p_max": descending[0],
        "margin": descending[0] - descending[1],
        "top_id": _padded(top, -1),
        "top_x": _padded(x[top], 0.0),
        "top_y": _padded(y[top], 0.0),
        "top_u_bar": _padded(u_bar[:-1], 1.0),
        "tail_mass": round_up(tail_mass),
        "tv_x_xhat": round_up(tv_x_xhat),
        "tv_redraw": None,
        "bias_exact": None,
        "tv_xhat_y": None,
        "tv_quantised": None,
    }
    if rng.random() < scoring.exact_share:
        row |= exact_bias_columns(x, y, sizes)
        quantised = quantisation_distances(descending, measured_sizes(len(x)))
        row["tv_quantised"] = round_up(quantised, QUANTISED_STEP).ravel()
    return row


def exact_bias_columns(x: Law, y: Law, sizes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Exact bias of the published truncation without skipping, per truncation size (variant B of THEORY 4.4).

    The output law accepts drafts by the true x, so it keeps min(x, y), and redraws the rest from norm((y - x_hat)+).
    """
    accepted, rejected = np.minimum(x, y), total_variation(x, y)
    redraw = residual_law(y, x)
    order = np.argsort(-x, kind="stable")
    columns = {name: np.empty(len(sizes)) for name in ("tv_redraw", "bias_exact", "tv_xhat_y")}
    for row, k in enumerate(sizes):
        x_hat = reconstruct(order[:k], x[order[:k]], len(x))
        redraw_hat = residual_law(y, x_hat)
        columns["tv_redraw"][row] = total_variation(redraw, redraw_hat)
        columns["bias_exact"][row] = total_variation(accepted + rejected * redraw_hat, y)
        columns["tv_xhat_y"][row] = total_variation(x_hat, y)
    return columns


def round_up(values: NDArray[np.float64], step: float = GRID_STEP) -> NDArray[np.float64]:
    """Round up to a multiple of `step`: profiles pack five times smaller, and what is a bound stays one."""
    return np.ceil((values - 1e-12) / step).clip(min=0) * step


def _padded(values: NDArray[Any], fill: float) -> NDArray[Any]:
    """`values` filled up to `TOP` entries, for vocabularies smaller than that."""
    return np.pad(values, (0, TOP - len(values)), constant_values=fill)
