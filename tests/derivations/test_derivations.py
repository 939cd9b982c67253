"""Every derivation holds, is complete, and comes from a script that runs alone; the checks behind them can fail."""

import subprocess
import sys
from fractions import Fraction

import pytest
from derived import NAMES, SCRIPTS, derivation, module

THEORY = {"2.4", "2.6", "3", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "5", "6.1", "6.2", "6.3", "6.4"}


@pytest.mark.parametrize("name", NAMES)
def test_holds(name):
    assert derivation(name).holds, str(derivation(name))


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_complete(name):
    import sympy

    derived = derivation(name)
    assert derived.name == name
    assert derived.source in ("P", "P2", "N")
    assert isinstance(derived.result, sympy.Basic)
    assert all((derived.theory, derived.statement, derived.latex, derived.method, derived.assumptions))
    assert derived.statement.isascii()
    assert derived.latex.count("{") == derived.latex.count("}")


def test_names_are_unique_and_sections_covered():
    derived = [derivation(name) for name in NAMES]
    assert len({d.name for d in derived}) == len({d.statement for d in derived}) == len(NAMES)
    assert {d.theory for d in derived} >= THEORY | {"7.1", "7.2", "8", "9"}


def test_a_derivation_must_be_filled_in():
    whole = module("derivation").Derivation
    fields = {field: getattr(derivation("mean_rejection"), field) for field in whole.__dataclass_fields__}
    with pytest.raises(ValueError, match="assumptions"):
        whole(**{**fields, "assumptions": ()})
    with pytest.raises(ValueError, match="holds"):
        whole(**{**fields, "holds": 1})


def test_a_script_runs_alone():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "published_thresholds.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("published_thresholds [P2], THEORY 2.4: holds")


@pytest.mark.parametrize("size", [2, 3])
def test_orderings_hold_every_pair_of_laws(size):
    """Each region's extreme cases are pairs of laws of equal total, in one order at each symbol; all orders occur."""
    seen = set()
    for region in module("orderings").orderings(2, size):
        (x, y), _ = region.laws()
        assert sum(x) == sum(y)
        seen.add(tuple(sorted(module("orderings").sign(a - b) for a, b in zip(x, y, strict=True))))
        assert all(mass >= 0 for case in region.cases for law in case for mass in law)
    assert {(0,) * size, (-1, 1) if size == 2 else (-1, -1, 1)} <= seen


def test_a_false_identity_is_refused():
    laws, everywhere = module("laws"), module("everywhere")

    def too_small(x, y):
        return laws.total_variation(x, y) == laws.total_variation(x, y) / 2

    assert not everywhere.on_orderings(too_small, laws=2)
    assert not everywhere.on_rationals(too_small, laws=2)


def test_a_false_bound_is_refused():
    """The triangle inequality for TV certifies; with one side dropped it does not."""
    laws, everywhere = module("laws"), module("everywhere")

    def triangle(x, h, y):
        return laws.at_most(x, y, laws.total_variation(x, h) + laws.total_variation(h, y))

    def one_side(x, h, y):
        return laws.at_most(x, y, laws.total_variation(x, h))

    assert everywhere.everywhere(triangle, laws=3)
    assert not everywhere.on_orderings(one_side, laws=3)
    assert not everywhere.on_rationals(one_side, laws=3)


def test_lemma_fails_without_the_maximum():
    """TV(norm f, norm g) <= TV(x, x_hat) / min(R, R') is weaker and holds, TV <= TV(x, x_hat) is false."""
    laws, everywhere = module("laws"), module("everywhere")

    def undivided(x, h, y):
        if laws.total_variation(x, y) == 0 or laws.total_variation(h, y) == 0:
            return True
        return laws.at_most(laws.residual(y, x), laws.residual(y, h), laws.total_variation(x, h))

    assert not everywhere.on_rationals(undivided, laws=3)


def test_cut_keeps_one_side_only():
    orderings = module("orderings")
    simplex = orderings.Region(cases=tuple((tuple(Fraction(int(v == w)) for v in range(3)),) for w in range(3)))
    above, below = simplex.halves(lambda case: case[0][0] - case[0][1])
    (x,), _ = above.laws()
    assert orderings.sign(x[0] - x[1]) == 1
    (x,), _ = below.laws()
    assert orderings.sign(x[0] - x[1]) == -1
    (x,), _ = simplex.laws()
    with pytest.raises(orderings.UndecidedError):
        orderings.sign(x[0] - x[1])


def test_sequence_distance_is_below_the_sum():
    """The exact form of 4.8 at a point where the sum bound is strict."""
    import sympy

    distance, bound = derivation("sequence_distance").result, derivation("sequence_bound").result[0]
    at = {"y0": "3/4", "y00": "1/2", "y10": "1/4", "q0": "1/4", "q00": "3/4", "q10": "1/2"}
    values = [
        expression.subs({s: sympy.Rational(at[s.name]) for s in expression.free_symbols})
        for expression in (distance, bound)
    ]
    assert values[0] < values[1]
