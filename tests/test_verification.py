"""Accept/reject tables of each proposal, and that the coins that are tossed follow the law that is stated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import law, pairs

from cuhlm_opt.distributions import total_variation
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Verdict

ROUNDING = 1e-12


class Scripted:
    """A random generator that returns the uniforms it was given, and no more."""

    def __init__(self, *uniforms):
        self.left = list(uniforms)

    def random(self):
        return self.left.pop(0)


@pytest.mark.parametrize(
    ("tested", "y", "acceptance", "redraw"),
    [
        (0.5, law(1, 2, 1), 0.5, [0, 1, 0]),
        (0.5, law(0, 1, 1), 0.0, [0, 0.6, 0.4]),
        (0.5, law(2, 1, 1), 1.0, [0, 1, 0]),
        (0.5, law(3, 1, 0), 1.0, [5 / 6, 1 / 6, 0]),
        (0.25, law(1, 2, 1), 1.0, [0, 1, 0]),  # tested with another probability than the entry of the law
        (1.0, law(1, 2, 1), 0.25, [0, 1, 0]),
    ],
)
def test_proposal_table(tested, y, acceptance, redraw):
    """Accept draft 0 with probability min(1, y_0/tested), else draw from norm((y - law)+)."""
    x = np.array([0.5, 0.2, 0.3])
    verdict = Proposal(draft=0, tested=tested, law=x).verify(y)
    assert verdict.acceptance == pytest.approx(acceptance, abs=1e-15)
    np.testing.assert_allclose(verdict.redraw, redraw, atol=1e-15)
    assert verdict.draft == 0


def test_proposal_at_the_edges():
    x, y = law(2, 1, 1), law(2, 1, 1)
    assert Proposal(draft=0, tested=0.5, law=x).verify(y).law().tolist() == [1, 0, 0]  # y = x: always accepted
    assert Proposal(draft=1, tested=0.0, law=x).verify(law(1, 0, 0)).law().tolist() == [1, 0, 0]  # y_d = 0: rejected
    verdict = Proposal(draft=0, tested=0.9, law=y).verify(y)  # nothing to redraw from: the fallback is y
    np.testing.assert_allclose(verdict.law(), (1 - 5 / 9) * y + 5 / 9 * np.array([1, 0, 0]), atol=1e-15)


def test_coarse_table():
    """K = {0}, x_0 = 0.5: the server knows x = (.5, lump .5) and nothing else of x."""
    kept, masses, y = np.array([0]), np.array([0.5]), law(3, 6, 1)
    lumped = CoarseProposal(kept=kept, masses=masses, draft=None).verify(y)
    assert lumped.acceptance == 1.0  # y(T) = 0.7 > 0.5
    np.testing.assert_allclose(lumped.law(), [0, 6 / 7, 1 / 7], atol=1e-15)
    draft = CoarseProposal(kept=kept, masses=masses, draft=0).verify(y)
    assert draft.acceptance == pytest.approx(0.6)
    np.testing.assert_allclose(draft.law(), [0.6, 0.4 * 6 / 7, 0.4 / 7], atol=1e-15)
    richer = law(8, 1, 1)  # y(T) = 0.2 < 0.5: the lump is accepted with probability 0.4, else token 0 is drawn
    lumped = CoarseProposal(kept=kept, masses=masses, draft=None).verify(richer)
    assert lumped.acceptance == pytest.approx(0.4)
    np.testing.assert_allclose(lumped.law(), [0.6, 0.2, 0.2], atol=1e-15)


def test_coarse_with_nothing_kept_draws_from_y():
    y = law(1, 2, 0, 5)
    nothing = CoarseProposal(kept=np.empty(0, dtype=int), masses=np.empty(0), draft=None).verify(y)
    assert nothing.acceptance == 1.0
    np.testing.assert_allclose(nothing.law(), y, atol=1e-15)


def test_coarse_where_the_lump_is_impossible_under_y():
    verdict = CoarseProposal(kept=np.array([0, 2]), masses=np.array([0.25, 0.25]), draft=None).verify(law(1, 0, 3))
    assert verdict.acceptance == 0.0
    np.testing.assert_allclose(verdict.law(), [0, 0, 1], atol=1e-15)  # (y - x)+ on K = (0, .5)


def test_coarse_with_everything_kept_is_the_full_step():
    x, y = law(4, 1, 5), law(2, 6, 2)
    for d in range(3):
        coarse = CoarseProposal(kept=np.arange(3), masses=x, draft=d).verify(y)
        full = Proposal(draft=d, tested=x[d], law=x).verify(y)
        np.testing.assert_allclose(coarse.law(), full.law(), atol=1e-15)


def test_query_draws_from_y():
    y = law(1, 2, 5)
    verdict = Query().verify(y * 3)
    assert verdict.acceptance == 0.0
    assert verdict.draft is None
    np.testing.assert_allclose(verdict.law(), y, atol=1e-15)


@given(pairs(), st.data())
def test_every_verdict_is_a_law_on_the_support_of_y_and_leaves_y_alone(pair, data):
    """Whatever is proposed, the token that results is possible under the LLM."""
    x, y = pair
    tokens = st.integers(0, len(x) - 1)
    d = data.draw(tokens)
    kept = np.array(sorted(data.draw(st.sets(tokens, max_size=5))), dtype=int)
    uploads = [
        Proposal(draft=d, tested=x[d], law=x),
        Proposal(draft=d, tested=data.draw(st.floats(1e-6, 1.0)), law=y[::-1]),
        CoarseProposal(kept=kept, masses=x[kept], draft=d if d in kept else None),
        Query(),
    ]
    before = y.copy()
    for upload in uploads:
        output = upload.verify(y).law()
        assert output.sum() == pytest.approx(1, abs=ROUNDING)
        assert (output >= 0).all()
        assert not output[y == 0].any()
    np.testing.assert_array_equal(y, before)


CELLS = 20
VERDICTS = {
    "draft": Verdict(acceptance=0.35, redraw=law(1, 4, 0, 15), draft=2),
    "certain": Verdict(acceptance=1.0, redraw=law(1, 4, 0, 15), draft=0),
    "refused": Verdict(acceptance=0.0, redraw=law(1, 4, 0, 15), draft=0),
    "lump": Verdict(acceptance=0.6, redraw=law(20, 0, 0, 0), draft=None, lump=law(0, 3, 7, 10)),
    "query": Query().verify(law(1, 2, 3, 14)),
}


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS.keys())
def test_coins_follow_the_law(verdict):
    """Over all cells of both uniforms the tokens drawn make up Verdict.law(), whose entries are multiples of 1/400."""
    middles = (np.arange(CELLS) + 0.5) / CELLS
    counts = np.zeros(4)
    for first in middles:
        for second in middles:
            token, accepted = verdict.sample(Scripted(first, second))
            counts[token] += 1
            assert accepted == (first < verdict.acceptance)
    np.testing.assert_allclose(counts / CELLS**2, verdict.law(), atol=1e-12)


def test_an_accepted_draft_costs_one_uniform():
    assert VERDICTS["draft"].sample(Scripted(0.1)) == (2, True)


def test_rejection_rate_is_total_variation():
    x, y = law(4, 1, 5), law(2, 6, 2)
    rejected = sum(x[d] * (1 - Proposal(draft=d, tested=x[d], law=x).verify(y).acceptance) for d in range(3))
    assert rejected == pytest.approx(total_variation(x, y), abs=1e-15)
