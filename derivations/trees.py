"""Two models on sequences: a law of the next token at every prefix, exactly, for short sequences."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import product
from random import Random

from laws import random_law, rejection, residual, total_variation

Prefix = tuple[int, ...]
Tree = Mapping[Prefix, list[Fraction]]


def prefixes(size: int, length: int) -> Iterator[Prefix]:
    """All prefixes shorter than `length`, the empty one first."""
    for n in range(length):
        yield from product(range(size), repeat=n)


def random_tree(rng: Random, size: int, length: int, stop: int | None = None) -> dict[Prefix, list[Fraction]]:
    """A random next-token law at each prefix; after the token `stop`, if there is one, only `stop` follows."""
    tree = {}
    for prefix in prefixes(size, length):
        ended = stop is not None and stop in prefix
        tree[prefix] = [Fraction(int(v == stop)) for v in range(size)] if ended else random_law(rng, size)
    return tree


def sequence_law(tree: Tree, size: int, length: int) -> dict[Prefix, Fraction]:
    """Probability of each sequence of `length` tokens."""
    law = {}
    for word in product(range(size), repeat=length):
        probability = Fraction(1)
        for n, token in enumerate(word):
            probability *= tree[word[:n]][token]
        law[word] = probability
    return law


def expected_distances(contexts: Tree, q: Tree, y: Tree, size: int, length: int) -> Fraction:
    """E[sum_t TV(q_t, y_t)] over the prefixes that the model `contexts` visits."""
    total = Fraction(0)
    for n in range(length):
        for prefix, probability in sequence_law(contexts, size, n).items():
            total += probability * total_variation(q[prefix], y[prefix])
    return total


def add_tested(
    law: dict[Prefix, Fraction], x: Tree, y: Tree, prefix: Prefix, drafts: Prefix, probability: Fraction
) -> None:
    """Add to `law` what testing `drafts` behind `prefix` puts out, where they are drafted with `probability`.

    The first that fails is replaced by a draw from norm((y - x)+); a token from y follows if none does.
    """
    for n, token in enumerate(drafts):
        at = prefix + drafts[:n]
        refused = probability * rejection(x[at][token], y[at][token])
        _add(law, drafts[:n], refused, residual(y[at], x[at]))
        probability -= refused
    _add(law, drafts, probability, y[prefix + drafts])


def _add(law: dict[Prefix, Fraction], before: Prefix, probability: Fraction, last: list[Fraction]) -> None:
    if probability > 0:
        for token, share in enumerate(last):
            key = (*before, token)
            law[key] = law.get(key, Fraction(0)) + probability * share
