"""Check a statement about laws in every case: all orderings of 2 and 3 symbols, and exactly on random rationals."""

from collections.abc import Callable
from random import Random
from typing import Any

import sympy as sp
from laws import random_law, random_skip
from orderings import Form, UndecidedError, orderings

METHOD = "proof + every ordering for |V| = 2, 3 + random rationals"
RANDOM_CASES = 200
LARGEST_VOCABULARY = 5

Check = Callable[..., bool]


def everywhere(check: Check, *, laws: int, skips: bool = False, split: Form | None = None) -> bool:
    """Whether `check(*laws)`, or `check(*laws, skip)`, is true in every case.

    Args:
        check: takes `laws` laws as lists of masses, and with `skips` one skip probability for each symbol.
        laws: number of laws.
        skips: whether the statement has skip probabilities, free in [0, 1] at each symbol.
        split: a form, linear on each ordering, whose sign the check needs beyond the order at each symbol.
    """
    return on_orderings(check, laws=laws, skips=skips, split=split) and on_rationals(check, laws=laws, skips=skips)


def on_orderings(check: Check, *, laws: int, skips: bool = False, split: Form | None = None) -> bool:
    """Whether the check is certified on every ordering of the laws for |V| = 2 and 3; an undecided sign is a no."""
    try:
        for size in (2, 3):
            for whole in orderings(laws, size):
                for region in whole.halves(split) if split else (whole,):
                    on_region, skip = region.laws(size if skips else 0)
                    if not check(*on_region, *([skip] if skips else [])):
                        return False
    except UndecidedError:
        return False
    return True


def on_rationals(check: Check, *, laws: int, skips: bool = False, cases: int = RANDOM_CASES, seed: int = 0) -> bool:
    """Whether the check is true, in exact arithmetic, on `cases` random rational laws with 2 to 5 symbols."""
    return all(check(*case) for case in rational_cases(laws=laws, skips=skips, cases=cases, seed=seed))


def rational_cases(*, laws: int, skips: bool = False, cases: int = RANDOM_CASES, seed: int = 0) -> list[list[Any]]:
    """Random rational laws, each case followed by its skip probabilities where asked for."""
    rng = Random(seed)
    drawn = []
    for _ in range(cases):
        size = rng.randint(2, LARGEST_VOCABULARY)
        drawn.append([random_law(rng, size) for _ in range(laws)] + ([random_skip(rng, size)] if skips else []))
    return drawn


def named(letters: str, size: int = 3) -> list[list[sp.Symbol]]:
    """Symbols x1, x2, ... for each letter: the laws in which results are written for |V| = 3."""
    return [list(sp.symbols(f"{letter}1:{size + 1}", nonnegative=True)) for letter in letters.split()]
