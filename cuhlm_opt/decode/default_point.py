"""The operating point of `decode` where none is given, and one point put to another mode."""

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import CalibrationRef, ChannelSettings, OperatingPoint, Recommendation
from cuhlm_opt.decode.policy import check_point
from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.latency import Accounting
from cuhlm_opt.links import link_of, settled
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.modes import Distortion, Drafting, Mode, Pending, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.signals import Signal
from cuhlm_opt.truncation import truncation_distances
from cuhlm_opt.uncertainty import mean_uncertainty

TINY = "tiny"
BANDWIDTH_HZ, SNR_DB, DOMAIN = 10e6, 10.0, "general"
_ANSWERS, _LENGTH, _BUDGET, _THETA = 64, 16, 0.02, 0.1
_DRAFTS = 3
_TIE = 1e-9  # positions with the same context have the same u_bar, and are skipped together or not at all


def default_operating_point(pair: str, mode: Mode | None) -> OperatingPoint:
    """Solve for the calibration shipped with `pair`, at 10 MHz, 10 dB, general text; the tiny pair has its own point.

    Args:
        pair: name of the pair.
        mode: decoding mode, `cu-hlm-offline` when None.

    Raises:
        InputError: no calibration is shipped for the pair.
        InfeasibleError: no point meets the budget.
    """
    mode = mode or Mode.CU_HLM_OFFLINE
    if pair == TINY:
        return tiny_operating_point(load_pair(TINY), mode)
    from cuhlm_opt.solve import solve

    return solve(calibration=pair, bandwidth_hz=BANDWIDTH_HZ, snr_db=SNR_DB, domain=DOMAIN, mode=mode)


def with_mode(point: OperatingPoint, mode: Mode) -> OperatingPoint:
    """`point` put to `mode`, at the mode's own best point where the solver determined one, else with what `point` has.

    Raises:
        InputError: the point lacks what the mode needs.
    """
    if mode is point.mode:
        return point
    pending = Pending.ROLL_BACK if mode is Mode.SPECULATIVE else Pending.KEEP if mode.skips else None
    update: dict[str, object] = {"mode": mode, "pending": pending, "state_thresholds": ()}
    for row in point.baselines:
        if row.mode is mode and row.skip_rate is not None:
            update |= {"u_threshold": row.u_threshold, "skip_rate": row.skip_rate, "k": row.k, "theta": row.theta}
            update |= {key: getattr(row, key) for key in ("draft_length", "drafting", "pending_data")}
            update |= {key: value for key in ("b_prob", "quantiser") if (value := getattr(row, key)) is not None}
    changed = point.model_copy(update=update)
    check_point(changed)
    return changed


def tiny_operating_point(pair: Pair, mode: Mode) -> OperatingPoint:
    """An exact point of a small vocabulary: the largest threshold whose mean risk is at most 0.02.

    Both laws are known at every position of a fixed set of the LLM's own answers, so risk(t) and the truncation error
    are sums over tokens (THEORY 6.1, 4.6); the answers are drawn with a seed of their own.
    """
    x, y, u_bar = _answers(pair)
    order = np.argsort(u_bar, axis=None)
    levels = u_bar.ravel()[order]
    risk = np.cumsum(np.maximum(x - y, 0.0).ravel()[order]) / len(x)
    affordable = int(np.searchsorted(risk, _BUDGET, side="right"))
    beyond = levels[affordable] if affordable < len(levels) else 1.0
    below = levels[levels < beyond - _TIE]
    # Half way to the first level that costs too much, so that rounding cannot move a token across the threshold.
    threshold = float((below[-1] + beyond) / 2) if len(below) else None
    skipped = np.zeros_like(x, dtype=bool) if threshold is None else u_bar <= threshold
    sizes = np.arange(x.shape[1] + 1)
    truncated = np.mean([truncation_distances(np.sort(law)[::-1], sizes)[1] for law in x], axis=0)
    k = int(np.argmax(truncated <= _THETA))
    channel = ChannelSettings(bandwidth_hz=BANDWIDTH_HZ, snr_db=SNR_DB)
    return OperatingPoint(
        status="incomplete",
        policy="budget",
        mode=mode,
        signal=Signal.U_BAR,
        u_threshold=threshold,
        u_threshold_computed=threshold,
        skip_rate=float((skipped * x).sum() / len(x)),
        skip_rate_ci=None,
        k=k,
        k_mean=float(k),
        truncation_rule="mean TV(x, x_hat_k) <= theta",
        distortion=Distortion.BOUND,
        theta=_THETA,
        b_prob=8,
        quantiser=Quantiser.UNIFORM,
        format=Format.PUBLISHED,
        draft_length=_DRAFTS if mode is Mode.SPECULATIVE else 1,
        drafting=Drafting.FIXED if mode is Mode.SPECULATIVE else None,
        pending=Pending.ROLL_BACK if mode is Mode.SPECULATIVE else Pending.KEEP if mode.skips else None,
        pending_data=PendingData.TRUNCATED if mode is Mode.SPECULATIVE else None,
        payload_bits=None,
        compression=None,
        uplink_s=None,
        latency_s=None,
        latency_p95_s=None,
        throughput_tokens_per_s=None,
        speedup_vs_hlm=None,
        speedup_vs_hlm_published=None,
        bias_skip=float((skipped * np.maximum(x - y, 0.0)).sum() / len(x)),
        bias_truncation=float(truncated[k]),
        bias_quantisation=None,
        bias_total=None,
        bias_budget=_BUDGET,
        numeric_floor=0.0,
        certificate=None,
        binding=None,
        accounting=Accounting.MEAN_LATENCY,
        domain=DOMAIN,
        temperature=1.0,
        top_p=1.0,
        slope=None,
        intercept=None,
        answer_tokens=_LENGTH,
        channel=settled(channel, link_of(channel)),
        times=None,
        baselines=(),
        recommended=Recommendation(mode=None, reason="the tiny pair is for trying things out; no times are solved for"),
        assumptions=(f"threshold from both laws at {len(x)} positions of the LLM's own answers",),
        calibration=CalibrationRef(id=TINY, pair=TINY, domain=DOMAIN),
        warnings=(),
    )


def _answers(pair: Pair) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(x, y, u_bar) at every position of answers that the LLM draws, each of shape (positions, |V|)."""
    rng = np.random.default_rng(0)
    prompt = pair.llm.chat_tokens("a")
    slm_rows, y = [], []
    for _ in range(_ANSWERS):
        chunk = prompt
        pair.slm.truncate(0, 0)
        pair.llm.truncate(0, 0)
        for _ in range(_LENGTH):
            slm, llm = (model.extend({0: chunk}, last_only=True)[0][-1] for model in (pair.slm, pair.llm))
            slm_rows.append(slm)
            y.append(softmax(llm))
            chunk = [sample(y[-1], rng)]
            if chunk[0] in pair.llm.eos_tokens:
                break
    distinct, position = np.unique(np.array(slm_rows), axis=0, return_inverse=True)  # few contexts, many positions
    x = np.array([softmax(row) for row in distinct])[position]
    u_bar = np.array([mean_uncertainty(row, np.arange(len(row))) for row in distinct])[position]
    return x, np.array(y), u_bar
