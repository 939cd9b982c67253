"""Bits of an upload, and the published figures."""

import math

import pytest

from cuhlm_opt.payload import (
    Format,
    coarse_bits,
    dense_bits,
    index_bits,
    index_set_bits,
    law_bits,
    published_bits,
    type_bits,
)
from cuhlm_opt.quantisation import Quantiser


@pytest.mark.parametrize(
    ("vocab_size", "bits"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32000, 15), (32768, 15), (32769, 16), (151936, 18)],
)
def test_index_bits(vocab_size, bits):
    """The least b with 2^b >= |V|."""
    assert index_bits(vocab_size) == bits
    assert 2**bits >= vocab_size > 2 ** (bits - 1) - (bits == 0)


def test_published_bytes():
    """92 000 bytes for all of x, 86.25 for k = 30, 32 000 for a dense vector [P2, THEORY 2.6]."""
    assert published_bits(32000, 32000) / 8 == 92_000
    assert published_bits(30, 32000) / 8 == 86.25
    assert dense_bits(32000) / 8 == 32_000


@pytest.mark.parametrize("quantiser", Quantiser)
def test_formats_of_the_full_law(quantiser):
    """All of x needs no set of ids; its length in the compact format is that of the dense one, but for types."""
    assert law_bits(32000, 32000, 8, Format.PUBLISHED, quantiser) == 32000 * (8 + 15)
    assert law_bits(32000, 32000, 8, Format.DENSE, quantiser) == 32000 * 8
    if quantiser is not Quantiser.TYPES:
        assert law_bits(1000, 1000, 16, Format.COMPACT, quantiser) == 1000 * 16
    else:  # without a rest, |V| - 1 of |V| counts are free
        assert law_bits(60, 60, 8, Format.COMPACT, quantiser) == type_bits(59, 255)


def test_peer_counts_no_index_bits():
    """A published peer counts b_prob = 16 and no indices [THEORY 7.3]: that is the payload less its index bits."""
    assert published_bits(320, 32000, 16) - 320 * index_bits(32000) == 320 * 16


def test_bits_are_linear_in_k():
    """A mean k has the mean bits."""
    mean = (published_bits(3, 5000) + published_bits(8, 5000)) / 2
    assert published_bits(5.5, 5000) == mean


def test_coarse_bits():
    """23 bits at |V| = 32 000 against 690 for k = 30 and 736 000 for all of x; 26 at 151 936 [N, THEORY 5]."""
    assert coarse_bits(1, 32000) == 23
    assert coarse_bits(1, 151936) == 26
    assert coarse_bits(0, 32000) == 0
    assert published_bits(30, 32000) == 690
    assert published_bits(32000, 32000) == 736_000


@pytest.mark.parametrize(("k", "vocab_size"), [(0, 9), (1, 9), (4, 9), (9, 9), (30, 32000)])
def test_index_sets(k, vocab_size):
    """ceil(log2 C(|V|, k)): 342 bits against 450 for k = 30 of 32 000 [N, THEORY 9]."""
    bits = index_set_bits(k, vocab_size)
    assert 2**bits >= math.comb(vocab_size, k) > 2**bits // 2
    assert index_set_bits(30, 32000) == 342
    assert 30 * index_bits(32000) == 450


def test_types():
    """K counts of N = 255 and their rest: C(N + k, k) types, 135 bits against 240 [N, THEORY 9]."""
    assert type_bits(30) == 135
    assert type_bits(1, 7) == 3  # 0/7 .. 7/7
    assert type_bits(2, 2) == 3  # (0,0) (0,1) (1,0) (0,2) (1,1) (2,0)
    assert law_bits(30, 32000, 8, Format.COMPACT, Quantiser.TYPES) == 342 + 135
