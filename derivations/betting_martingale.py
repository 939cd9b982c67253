"""A capital that a fair gambler makes tests a hypothesis at every moment [N; after Waudby-Smith, Ramdas 2024].

Factors. H0: E[L_i | past] <= eps, L_i in [0, 1]. f_i = 1 - c + c L_i/eps, 0 <= c <= 1, is >= 0, and E[f_i | past] =
1 + c (E[L_i | past] - eps)/eps <= 1. For p uniform on (0, 1), kappa p^(kappa - 1) has the mean 1.

Capital. A gambler who begins at prompt s has 1 before s, then prod_{i = s..n} f_i: nonnegative, and a supermartingale.
So is any mean over bets and over s with weights w_s = 1/(s (s + 1)), whose sum over s > n is 1/(n + 1):

    K_n = 1/(n + 1) + sum_{s <= n} w_s prod_{i = s..n} f_i,   K_0 = 1.

Ville (1939). Stop at the first n <= N with K_n >= 1/alpha, or at N. By optional stopping E[K] <= 1 there, so by
Markov's inequality P(K_n >= 1/alpha for some n <= N) <= alpha, whatever N. Hence one may stop at any time.

Conformal p-values (Vovk, Gammerman, Shafer 2005). For exchangeable scores the rank of the n-th among the first n is
uniform on 1 .. n and independent of the ranks before it: each of the n! orders has the same probability, and the ranks
determine the order. (rank - 1 + U)/n with U uniform is then uniform, and independent of the p-values before it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import permutations, product

import sympy as sp
from derivation import Derivation, Source, show, vanishes

Law = dict[Fraction, Fraction]
"""Losses with their probabilities."""
C, EPS, LOSS, N, S = sp.symbols("c epsilon L n s", positive=True)
RESULT = 1 - C + C * LOSS / EPS
PROMPTS = 4
BETS = (Fraction(1, 2), Fraction(9, 10))


def capital(losses: Sequence[Fraction], eps: Fraction) -> list[Fraction]:
    """K_1 .. K_n, each from its definition."""
    found = []
    for n in range(1, len(losses) + 1):
        each = [Fraction(1, n + 1)]
        for c, s in product(BETS, range(1, n + 1)):
            own = Fraction(1, s * (s + 1) * len(BETS))
            for loss in losses[s - 1 : n]:
                own *= 1 - c + c * loss / eps
            each.append(own)
        found.append(sum(each, Fraction(0)))
    return found


def paths(law_after: Callable[[Sequence[Fraction]], Law]) -> Iterator[tuple[tuple[Fraction, ...], Fraction]]:
    """Every sequence of losses with its probability, where the law of a loss depends on those before it."""
    found: list[tuple[tuple[Fraction, ...], Fraction]] = [((), Fraction(1))]
    for _ in range(PROMPTS):
        found = [((*path, loss), p * q) for path, p in found for loss, q in law_after(path).items()]
    yield from found


def derive() -> Derivation:
    """Enumerate all paths of discrete losses: fair, unfair and adversarial laws."""
    p, kappa = sp.symbols("p kappa", positive=True)
    waiting = sp.summation(1 / (S * (S + 1)), (S, N + 1, sp.oo))
    mean = sp.symbols("m", positive=True)
    eps = Fraction(1, 4)
    fair: Law = {Fraction(0): Fraction(3, 4), Fraction(1): Fraction(1, 4)}
    spread: Law = {Fraction(0): Fraction(1, 2), Fraction(1, 4): Fraction(1, 4), Fraction(3, 4): Fraction(1, 4)}
    small: Law = {Fraction(0): Fraction(1, 2), Fraction(1, 4): Fraction(1, 2)}

    def adversarial(past: Sequence[Fraction]) -> Law:
        return fair if sum(past, Fraction(0)) > 0 else spread

    null = [(lambda past, law=law: law) for law in (fair, spread, small)] + [adversarial]
    above: Law = {Fraction(0): Fraction(1, 4), Fraction(1): Fraction(3, 4)}
    return Derivation(
        name="betting_martingale",
        theory="6.4",
        statement="if E[L_i | past] <= eps for losses in [0, 1], the capital K_n of bets 1 - c + c L/eps that begin at"
        " s with weight 1/(s (s + 1)) has P(K_n >= 1/alpha for any n) <= alpha; the same holds for bets kappa"
        " p^(kappa - 1) on conformal p-values of exchangeable prompts",
        latex=r"K_n = \frac{1}{n + 1} + \sum_{s \le n} \frac{1}{s (s + 1)} \prod_{i = s}^{n}"
        r" \Bigl(1 - c + \frac{c L_i}{\epsilon}\Bigr), \qquad \Pr\bigl(\exists n : K_n \ge 1/\alpha\bigr) \le \alpha",
        source=Source.OWN,
        assumptions=("losses in [0, 1], 0 < eps < 1, 0 <= c <= 1", "or: recorded and new prompts are exchangeable"),
        method="proof + all paths of small rational losses, all orders of small scores",
        result=RESULT,
        holds=vanishes(waiting - 1 / (N + 1))
        and vanishes(RESULT.subs(LOSS, mean) - (1 + C * (mean - EPS) / EPS))
        and vanishes(sp.integrate(kappa * p ** (kappa - 1), (p, 0, 1)) - 1)
        and all(_fair(law, eps, equal=law is not null[2]) for law in null)
        and not _fair(lambda past: above, eps, equal=False)
        and all(_ranks_are_uniform(n) for n in (2, 3, 4)),
    )


def _fair(law_after: Callable[[Sequence[Fraction]], Law], eps: Fraction, *, equal: bool) -> bool:
    """Whether E[K_n] <= 1 for every n (= 1 if `equal`), and K reaches no level more often than Ville allows."""
    found = [(capital(path, eps), chance) for path, chance in paths(law_after)]
    means = [sum(k[n] * chance for k, chance in found) for n in range(PROMPTS)]
    peaks = [(max(k), chance) for k, chance in found]
    ville = all(sum((chance for other, chance in peaks if other >= peak), Fraction(0)) * peak <= 1 for peak, _ in peaks)
    return all(mean == 1 if equal else mean <= 1 for mean in means) and ville


def _ranks_are_uniform(n: int) -> bool:
    """Whether the ranks of each among those before it take every value equally often over all orders."""
    ranks = Counter(
        tuple(sum(other > order[at] for other in order[:at]) for at in range(n)) for order in permutations(range(n))
    )
    expected = set(product(*(range(at + 1) for at in range(n))))
    return set(ranks) == expected and set(ranks.values()) == {1}


if __name__ == "__main__":
    show(derive)
