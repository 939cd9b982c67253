"""Runs of skipped tokens in the recorded answers: how many tokens the LLM must read when a token asks [N].

Easy stretches and easy prompts make runs longer than independent skips would. A recorded answer is cut at the length
limit of its calibration: it is repeated, a whole number of times, until it has the tokens that are asked about.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_Floats = NDArray[np.float64]

_TOKENS = 256
"""Beyond so many tokens the end of an answer no longer matters."""
MOST_PROMPTS = 2048
"""Runs are counted in this many answers at most, spread over the records."""


def repeated(prompt: NDArray[np.integer], tokens: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Recorded answers, the longest first, repeated to at least `tokens` tokens.

    Args:
        prompt: index of the prompt per position, shape (N,), each prompt's positions together and in order.
        tokens: T >= 1.

    Returns:
        (first position, recorded length, repeated length) of each answer, shape (n,) each.
    """
    starts = np.flatnonzero(np.diff(prompt, prepend=-1))
    lengths = np.diff(np.append(starts, len(prompt)))
    totals = -(-tokens // lengths) * lengths
    order = np.argsort(-totals, kind="stable")
    return starts[order], lengths[order], totals[order]


def ask_runs(
    prompt: NDArray[np.integer], asks: _Floats, classes: NDArray[np.integer], n_classes: int, tokens: int
) -> _Floats:
    """Law of the runs, exactly: at each position the draft is kept with its own probability, by a coin of its own.

    Args:
        prompt: index of the prompt per position, shape (N,), each prompt's positions together and in order.
        asks: probability that a position asks, in each state of the channel, shape (H, N); else its draft is kept.
        classes: class of the message that it then sends, shape (H, N).
        n_classes: C.
        tokens: answers are repeated to at least so many, up to `_TOKENS`.

    Returns:
        The probability that a token asks with a message of class c after n - 1 skipped ones, shape (C, L), n = 1 .. L;
        every position counts alike. The sum is the share that asks, of `MOST_PROMPTS` prompts where there are more.

    >>> ask_runs(np.zeros(2, int), np.full((1, 2), 0.5), np.zeros((1, 2), int), 1, tokens=2).tolist()
    [[0.375, 0.125]]
    """
    starts, lengths, totals = repeated(prompt, min(tokens, _TOKENS))
    every = -(-len(starts) // MOST_PROMPTS)
    starts, lengths, totals = starts[::every], lengths[::every], totals[::every]
    longest = int(totals[0])
    share = lengths / (totals * lengths.sum())  # a token of a repeated answer stands for this share of all
    weights = np.zeros((n_classes, longest))
    skip = 1.0 - asks.sum(axis=0)
    # Column j: probability, times the share, that token j asked last; column 0 stands for the beginning.
    last = np.zeros((len(starts), longest + 1))
    last[:, 0] = share
    for place in range(longest):
        active = int(np.searchsorted(-totals, -place))  # the answers longer than `place` come first
        rows = starts[:active] + place % lengths[:active]
        kept, since = skip[rows], last[:active, : place + 1]
        if n_classes == 1:
            reached = ((1.0 - kept) @ since)[None]
        else:
            cells = classes[:, rows].ravel(), np.tile(np.arange(active), len(asks))
            reached = csr_array((asks[:, rows].ravel(), cells), shape=(n_classes, active)) @ since
        weights[:, : place + 1] += reached[:, ::-1]
        since *= kept[:, None]
        last[:active, place + 1] = (1.0 - kept) * share[:active]
    return weights
