"""Rounds in recorded answers, against tossed coins and the closed form of independent acceptances."""

import numpy as np
import pytest

from cuhlm_opt.rounds import Chances, depths, round_rates
from cuhlm_opt.speculation import tokens_per_round


def fixed(prompt, accepted) -> Chances:
    n = len(prompt)
    return Chances(prompt=prompt, accepted=accepted, stops=np.zeros(n, bool), refused_on=np.ones(n), on=np.ones(n))


def simulated(chances: Chances, most: int, tokens: int, rng, replays: int) -> np.ndarray:
    """Rounds by d per token, coin by coin."""
    weights = np.zeros(most + 1)
    n = len(chances.prompt)
    for label in np.unique(chances.prompt):
        rows = np.flatnonzero(chances.prompt == label)
        total = -(-tokens // len(rows)) * len(rows)
        for _ in range(replays):
            place = 0
            while place < total:
                room, drafts, out, refused, going = total - place, 0, 0, False, True
                while going and drafts < min(most, room - 1):
                    row = rows[(place + drafts) % len(rows)]
                    drafts += 1
                    if refused:
                        going = rng.random() < chances.on[row]
                    elif rng.random() < chances.accepted[row]:
                        out += 1
                        going = not chances.stops[row]
                    else:
                        refused = True
                        going = rng.random() < chances.refused_on[row]
                weights[drafts] += len(rows) / n / total / replays
                place += out + 1
    return weights


@pytest.mark.parametrize("most", [1, 2, 4])
def test_rates_by_coins(most):
    """Within 0.004: three standard errors of the widest count."""
    rng = np.random.default_rng(0)
    prompt = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    chances = Chances(
        prompt=prompt,
        accepted=rng.random(10),
        stops=rng.random(10) < 0.4,
        refused_on=rng.random(10),
        on=rng.random(10),
    )
    exact = round_rates(chances, most, tokens=8).weights
    assert np.abs(exact - simulated(chances, most, 8, rng, 20_000)).max() < 0.004


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("drafts", [1, 3, 7])
def test_independent_acceptances_give_the_closed_form(alpha, drafts):
    """Long answers: a round at the end of 256 tokens may put out too few, g/256 of a round at most."""
    rates = round_rates(fixed(np.zeros(64, int), np.full(64, alpha)), drafts, tokens=256)
    assert rates.tokens_per_round == pytest.approx(tokens_per_round(alpha, drafts), rel=drafts / 200)
    assert rates.drafts_per_round == pytest.approx(drafts, rel=drafts / 100)
    stood, drafted = depths(fixed(np.zeros(64, int), np.full(64, alpha)), drafts)
    assert 1 + stood.sum() == pytest.approx(tokens_per_round(alpha, drafts))
    assert drafted == pytest.approx(np.ones(drafts))


def test_clustered_acceptances_are_not_independent_ones():
    """The same mean in stretches puts out more tokens a round."""
    clustered = np.repeat([1.0, 0.0], 32)
    rates = round_rates(fixed(np.zeros(64, int), clustered), 7, tokens=256)
    assert rates.tokens_per_round < tokens_per_round(0.5, 7)  # a round a token where nothing stands
    stood, _ = depths(fixed(np.zeros(64, int), clustered), 7)
    assert 1 + stood.sum() > tokens_per_round(0.5, 7)


def test_every_answer_is_covered():
    """Where all stands, T tokens take T/(g + 1) rounds; where nothing stands, T; the last token is not drafted."""
    prompt = np.repeat([0, 1], [6, 3])
    everything = round_rates(fixed(prompt, np.ones(9)), 2, tokens=6).weights
    assert everything == pytest.approx([0, 0, 1 / 3])
    nothing = round_rates(fixed(prompt, np.zeros(9)), 2, tokens=6).weights
    assert nothing == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_a_round_stops_behind_the_draft_that_stops_it():
    """Rounds begin at 0, where two are drafted, then at 3, 5, ... 117 and 119, where nothing is drafted any more."""
    prompt, one = np.zeros(4, int), np.ones(4)
    chances = Chances(prompt=prompt, accepted=one, stops=np.array([0, 1, 0, 1], bool), refused_on=one, on=one)
    assert round_rates(chances, 3, tokens=120).weights == pytest.approx([1 / 120, 58 / 120, 1 / 120, 0])
