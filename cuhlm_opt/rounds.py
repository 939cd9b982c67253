"""Rounds of several drafts in the recorded answers: how many tokens they draft, and how many they put out [N].

Along an answer that the LLM wrote, the emitted token w of a position came from an accepted draft with probability
min(1, q_w / y_w), q the law that drafts are drawn from: a draft w is drawn and stands with min(q_w, y_w), and what is
emitted has law y. Given the answer, positions are independent, so that rounds are counted exactly, position by
position; acceptances are not taken as alike. What the device drafts behind a draft that will be refused stands in no
record: its length is estimated from the recorded positions in its place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.runs import repeated

_Floats = NDArray[np.float64]

LONGEST_ANSWER = 256
"""Beyond so many tokens the end of an answer no longer matters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chances:
    """What drafting does at each recorded position.

    Args:
        prompt: index of the prompt, shape (n,), each prompt's positions together and in order.
        accepted: probability that the emitted token came from an accepted draft, shape (n,).
        stops: whether the emitted token, drafted, stops drafting, shape (n,).
        refused_on: probability that drafting goes on behind a draft that will be refused there, shape (n,).
        on: probability that drafting goes on behind any draft, shape (n,): for what is drafted in vain.
    """

    prompt: NDArray[np.integer]
    accepted: _Floats
    stops: NDArray[np.bool_]
    refused_on: _Floats
    on: _Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundRates:
    """Rounds of an answer, per token.

    Args:
        weights: rounds with d drafts per token, shape (g + 1,), d = 0 .. g.
        by_prompt: the same for the answer to each prompt, shape (n_prompts, g + 1).
    """

    weights: _Floats
    by_prompt: _Floats

    @property
    def rounds_per_token(self) -> float:
        """LLM passes per token."""
        return float(self.weights.sum())

    @property
    def tokens_per_round(self) -> float:
        """Mean tokens that a round puts out."""
        return 1.0 / self.rounds_per_token

    @property
    def drafts_per_round(self) -> float:
        """Mean drafts of a round."""
        return float(np.arange(len(self.weights)) @ self.weights) / self.rounds_per_token


def depths(chances: Chances, most: int) -> tuple[_Floats, _Floats]:
    """What rounds of up to `most` drafts do if they began at every position alike: a first ranking of draft lengths.

    Returns:
        (probability that the (j+1)-th draft is drafted and stands, probability that it is drafted), shape (most,) each;
        a round of at most g drafts puts out 1 + sum of the first over j < g.
    """
    stood, drafted = np.zeros(most), np.zeros(most)
    following, row = _following(chances.prompt), np.arange(len(chances.prompt))
    reach, vain = np.ones(len(row)), np.zeros(len(row))
    for depth in range(most):
        accepted, on = chances.accepted[row], chances.on[row]
        stood[depth], drafted[depth] = np.mean(reach * accepted), np.mean(reach + vain)
        vain = vain * on + reach * (1.0 - accepted) * chances.refused_on[row]
        reach = reach * accepted * ~chances.stops[row]
        row = following[row]
    return stood, drafted


def round_rates(chances: Chances, draft_length: int, tokens: int) -> RoundRates:
    """Rounds that follow each other from the first token of each answer on.

    Args:
        chances: what drafting does at each position.
        draft_length: g >= 1, most drafts of a round.
        tokens: answers are repeated to at least so many, up to `LONGEST_ANSWER`; there they end, and no round drafts
            more than may still be put out.

    Returns:
        Rounds per token; every position counts alike.

    >>> half = np.full(4, 0.5)
    >>> certain = Chances(prompt=np.zeros(4, int), accepted=half, stops=np.zeros(4, bool), refused_on=half, on=half)
    >>> round_rates(certain, 1, 4).weights.tolist()  # a round puts out two tokens where its draft stands
    [0.15625, 0.5625]
    """
    lengths_law, drafts_law = _outcomes(chances, draft_length)
    starts, lengths, totals = repeated(chances.prompt, min(tokens, LONGEST_ANSWER))
    longest = int(totals[0])
    begins = np.zeros((len(starts), longest + draft_length + 1))  # probability that a round begins there
    begins[:, 0] = 1.0
    counts = np.zeros((len(starts), draft_length + 1))
    for place in range(longest):
        active = int(np.searchsorted(-totals, -place))  # the answers longer than `place` come first
        rows = starts[:active] + place % lengths[:active]
        mass = begins[:active, place]
        begins[:active, place + 1 : place + draft_length + 2] += mass[:, None] * lengths_law[rows]
        left = np.minimum(totals[:active] - 1 - place, draft_length)
        drafted = mass[:, None] * drafts_law[rows]
        for room in np.unique(left):
            near = left == room
            counts[:active][near, 1 : room + 1] += drafted[near, :room]
            counts[:active][near, room] += drafted[near, room:].sum(axis=1)
    by_prompt = (counts / totals[:, None])[np.argsort(starts)]
    recorded = lengths[np.argsort(starts)]  # a token of a repeated answer stands for its recorded share
    return RoundRates(weights=recorded @ by_prompt / recorded.sum(), by_prompt=by_prompt)


def _outcomes(chances: Chances, most: int) -> tuple[_Floats, _Floats]:
    """Laws of the tokens put out and of the drafts, of a round that begins at each position.

    Returns:
        Shapes (n, most + 1), for 1 .. most + 1 tokens, and (n, most), for 1 .. most drafts.
    """
    n = len(chances.prompt)
    lengths_law, drafts_law = np.zeros((n, most + 1)), np.zeros((n, most))
    following, row = _following(chances.prompt), np.arange(n)
    reach, vain = np.ones(n), np.zeros(n)
    for depth in range(most):
        accepted, refused_on, on = chances.accepted[row], chances.refused_on[row], chances.on[row]
        stops = chances.stops[row] | (depth == most - 1)
        refused = reach * (1.0 - accepted)
        lengths_law[:, depth] += refused
        lengths_law[:, depth + 1] += reach * accepted * stops
        if depth == most - 1:
            drafts_law[:, depth] = reach + vain
            break
        drafts_law[:, depth] = reach * accepted * stops + refused * (1.0 - refused_on) + vain * (1.0 - on)
        vain = vain * on + refused * refused_on
        reach = reach * accepted * ~stops
        row = following[row]
    return lengths_law, drafts_law


def _following(prompt: NDArray[np.integer]) -> NDArray[np.intp]:
    """The position behind each one; behind the last of an answer its first."""
    following = np.arange(1, len(prompt) + 1)
    firsts = np.flatnonzero(np.diff(prompt, prepend=-1))
    following[np.append(firsts[1:], len(prompt)) - 1] = firsts
    return following
