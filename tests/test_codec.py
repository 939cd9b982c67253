"""The codec: lossless, of the stated length, total on any input, and exact verification with what it decodes."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import laws, laws_of, pairs_of, skips_of

from cuhlm_opt.codec import (
    CodecError,
    LawCodec,
    Message,
    coarse_codec,
    lumped_law,
)
from cuhlm_opt.distributions import Law, rejection_probability, total_variation
from cuhlm_opt.enumerative import (
    ENUMERATIVE_LIMIT,
    BitReader,
    BitWriter,
    rank_subset,
    read_subset,
    unrank_subset,
    write_subset,
)
from cuhlm_opt.errors import InputError
from cuhlm_opt.payload import Format, dense_bits, index_bits, index_set_bits, law_bits, published_bits, type_bits
from cuhlm_opt.quantisation import MEASURED_BITS, Quantiser, level_below, measured_sizes, quantisation_distances
from cuhlm_opt.truncation import largest, reconstruct
from cuhlm_opt.verification import CoarseProposal, Proposal

WAYS = list(product(Format, Quantiser))
ROUND_TRIPS, INPUTS = 100_000, 20_000
SUM = 1e-12  # float64 sums over at most 32 000 terms


def zipf(exponent: float, vocab_size: int = 32_000) -> Law:
    """Zipf law over shuffled tokens."""
    weights = np.arange(1, vocab_size + 1, dtype=np.float64) ** -exponent
    return np.random.default_rng(0).permutation(weights / weights.sum())


def expected_bits(codec: LawCodec, k: int) -> int:
    """Length of a message of k <= ENUMERATIVE_LIMIT entries, in closed form."""
    if codec.format is Format.DENSE:
        return dense_bits(codec.vocab_size, codec.b_prob)
    if codec.format is Format.PUBLISHED:
        return int(published_bits(k, codec.vocab_size, codec.b_prob))
    total = 2**codec.b_prob - 1
    cells = k + (k < codec.vocab_size)
    values = type_bits(cells - 1, total) if codec.quantiser is Quantiser.TYPES else k * codec.b_prob
    count = math.ceil(math.log2(codec.vocab_size + 1)) if codec.size is None else 0
    return count + index_set_bits(k, codec.vocab_size) + values


def expected_masses(codec: LawCodec, masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is decoded from rows of masses, written here without the code under test; shape (n, k)."""
    last, full = 2**codec.b_prob - 1, masses.shape[1] == codec.vocab_size
    if codec.quantiser is Quantiser.TYPES:
        cells = masses if full else np.column_stack([masses, 1 - masses.sum(axis=1)])
        shares = cells / cells.sum(axis=1, keepdims=True) * last
        counts = np.floor(shares)
        place = np.argsort(np.argsort(-(shares - counts), axis=1, kind="stable"), axis=1)
        counts += place < last - counts.sum(axis=1, keepdims=True)
        return counts[:, : masses.shape[1]] / last
    levels = {
        Quantiser.UNIFORM: np.linspace(0, 1, last + 1),
        Quantiser.LOG: np.append(0, np.logspace(-2 * codec.b_prob - 4, 0, last, base=2)),
        Quantiser.CUBE: np.linspace(0, 1, last + 1) ** 3,
    }[codec.quantiser]
    rounded = levels[np.abs(masses[:, :, None] - levels).argmin(axis=2)]
    total = rounded.sum(axis=1, keepdims=True)
    if full:
        return np.where(total > 0, rounded / np.where(total > 0, total, 1), 1 / codec.vocab_size)
    return rounded / np.maximum(total, 1)


def random_entries(
    rng: np.random.Generator, rows: int, vocab_size: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of k increasing ids and of their masses, some of them steep; with k = |V| the masses sum to 1."""
    ids = np.sort(rng.integers(0, vocab_size - k + 1, (rows, k)), axis=1) + np.arange(k)
    cells = rng.exponential(size=(rows, k + (k < vocab_size))) ** rng.choice([1, 4], (rows, 1))
    return ids, (cells / cells.sum(axis=1, keepdims=True))[:, :k]


def messages(rng: np.random.Generator, codec: LawCodec, k: int, count: int) -> list[Message]:
    """Messages of `codec` for random entries."""
    return [codec.encode(*row) for row in zip(*random_entries(rng, count, codec.vocab_size, k), strict=True)]


@pytest.mark.parametrize(("format", "quantiser"), WAYS)
def test_round_trips_lose_nothing(format: Format, quantiser: Quantiser) -> None:
    """Ids come back as they were, masses as the quantiser rounds them, in the number of bits of the closed form."""
    rng = np.random.default_rng(1)
    sizes = [(1, 1, 2), (5, 5, 8), (12, 12, 4), (40, 40, 6)]
    if format is not Format.DENSE:
        sizes += [(1, 0, 8), (6, 2, 3), (300, 12, 5), (151_936, 7, 8)]
    rows = math.ceil(ROUND_TRIPS / len(WAYS) / len(sizes))
    for vocab_size, k, b_prob in sizes:
        for size in (None, k):
            codec = LawCodec(vocab_size=vocab_size, b_prob=b_prob, format=format, quantiser=quantiser, size=size)
            ids, masses = random_entries(rng, math.ceil(rows / 2), vocab_size, k)
            sent = [codec.encode(*row) for row in zip(ids, masses, strict=True)]
            assert {message.bits for message in sent} == {expected_bits(codec, k)}
            received = [codec.decode(message) for message in sent]
            assert np.array_equal([kept for kept, _ in received], ids)
            decoded = np.array([values for _, values in received])
            # 1e-7 relative: levels of Quantiser.LOG are float32
            assert decoded == pytest.approx(expected_masses(codec, masses), rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("quantiser", Quantiser)
@pytest.mark.parametrize("k", [0, 1, 64, 1000, 5000, 31_000, 32_000])
def test_round_trips_of_large_sets(k: int, quantiser: Quantiser) -> None:
    rng = np.random.default_rng(k)
    codec = LawCodec(vocab_size=32_000, format=Format.COMPACT, quantiser=quantiser, b_prob=10)
    kept = rng.permutation(32_000)[:k]
    masses = zipf(1.0)[kept]
    masses = masses / masses.sum() if k == 32_000 else masses
    ids, decoded = codec.decode(codec.encode(kept, masses))
    assert np.array_equal(ids, np.sort(kept))
    law = reconstruct(ids, decoded, 32_000)
    assert law.sum() == pytest.approx(1, abs=SUM)


def test_ranks_are_a_bijection() -> None:
    """All subsets of up to 11 elements: ranks 0 .. C(n, k) - 1, each once, and back."""
    for n in range(12):
        for k in range(n + 1):
            subsets = [list(chosen) for chosen in combinations(range(n), k)]
            ranks = [rank_subset(chosen, n) for chosen in subsets]
            assert sorted(ranks) == list(range(math.comb(n, k)))
            assert [unrank_subset(rank, n, k) for rank in ranks] == subsets


def test_a_set_has_one_message() -> None:
    """Of all messages of the right length exactly C(n, k) are read; the ranks beyond are refused."""
    for n in range(1, 8):
        for k in range(n + 1):
            width, accepted = index_set_bits(k, n), 0
            for value in range(2**width):
                writer = BitWriter()
                writer.write(value, width)
                try:
                    read_subset(BitReader(writer.message()), n, k)
                except CodecError:
                    continue
                accepted += 1
            assert accepted == math.comb(n, k)


@pytest.mark.parametrize("k", [ENUMERATIVE_LIMIT + 1, 4000])
def test_sets_beyond_the_limit_take_few_bits_more(k: int) -> None:
    """At most 18 bits and a rounding for each cut, of about k / ENUMERATIVE_LIMIT."""
    chosen = np.sort(np.random.default_rng(k).permutation(151_936)[:k]).tolist()
    writer = BitWriter()
    write_subset(writer, chosen, 151_936)
    message = writer.message()
    assert 0 <= message.bits - index_set_bits(k, 151_936) <= 19 * 2 * k / ENUMERATIVE_LIMIT
    assert read_subset(BitReader(message), 151_936, k) == chosen


def test_bits_of_the_theory() -> None:
    """THEORY 9: k = 30 of 32 000 and N = 255: 342 against 450 bits for the ids, 135 against 240 for the masses."""
    kept, masses = np.arange(0, 3000, 100), np.full(30, 1 / 31)
    for quantiser, bits in ((Quantiser.UNIFORM, 342 + 240), (Quantiser.TYPES, 342 + 135)):
        codec = LawCodec(vocab_size=32_000, format=Format.COMPACT, quantiser=quantiser, size=30)
        assert codec.encode(kept, masses).bits == bits
    assert law_bits(30, 32_000, 8, Format.COMPACT, Quantiser.TYPES) == 342 + 135
    online = LawCodec(vocab_size=32_000, format=Format.COMPACT, quantiser=Quantiser.TYPES)
    assert online.encode(kept, masses).bits == 342 + 135 + 15
    published = LawCodec(vocab_size=32_000)
    assert published.encode(kept, masses).bits == 690 == 8 * 86.25
    assert published.encode(np.arange(32_000), zipf(1.0)).bits == 736_000
    dense = LawCodec(vocab_size=32_000, format=Format.DENSE)
    assert dense.encode(np.arange(32_000), zipf(1.0)).bits == 256_000


@pytest.mark.parametrize(("vocab_size", "bits"), [(32_000, 23), (151_936, 26)])
def test_bits_of_a_coarse_message(vocab_size: int, bits: int) -> None:
    codec = coarse_codec(vocab_size)
    assert codec.encode(np.array([17]), np.array([0.6])).bits == bits
    assert codec.encode(np.array([17, 4]), np.array([0.6, 0.3])).bits == 2 * bits
    assert codec.encode(np.array([], dtype=np.int64), np.array([])) == Message(0, b"")


def is_law(codec: LawCodec, message: Message) -> bool:
    """Whether `message` is decoded, and then to a law; anything but a law or a CodecError fails the test."""
    try:
        kept, masses = codec.decode(message)
    except CodecError:
        return False
    assert kept.shape == masses.shape
    assert np.all(np.diff(kept) > 0)
    assert len(kept) == 0 or (kept[0] >= 0 and kept[-1] < codec.vocab_size)
    law = reconstruct(kept, masses, codec.vocab_size)
    assert masses.sum() <= 1 + SUM
    assert law.min() >= 0
    assert law.sum() == pytest.approx(1, abs=SUM)
    return True


@pytest.mark.parametrize(("format", "quantiser"), WAYS)
def test_any_input_is_refused_or_a_law(format: Format, quantiser: Quantiser) -> None:
    """Random, cut, lengthened and bit-flipped messages."""
    rng = np.random.default_rng(2)
    outcomes = []
    sizes = [(1, 1, 2), (5, 5, 3)] if format is Format.DENSE else [(1, 1, 2), (5, 2, 3), (32_000, 3, 8), (2100, 2, 4)]
    rows = math.ceil(INPUTS / len(WAYS) / len(sizes) / 4)
    for vocab_size, k, b_prob in sizes:
        codec = LawCodec(vocab_size=vocab_size, b_prob=b_prob, format=format, quantiser=quantiser)
        for message in messages(rng, codec, k, rows):
            bits = np.unpackbits(np.frombuffer(message.data, dtype=np.uint8))[: message.bits]
            flipped = bits ^ (rng.random(len(bits)) < rng.choice([1 / len(bits), 0.3]))
            cut, longer = bits[: rng.integers(len(bits))], np.append(bits, rng.integers(0, 2, rng.integers(1, 30)))
            noise = rng.integers(0, 2, rng.integers(0, 80))
            for candidate in (flipped, cut, longer, noise):
                outcomes.append(is_law(codec, Message(len(candidate), np.packbits(candidate.astype(bool)).tobytes())))
    assert 0.01 < np.mean(outcomes) < 0.99  # both branches were taken


@given(st.binary(max_size=12), st.integers(-9, 99), st.sampled_from(WAYS), st.integers(1, 2000))
def test_bytes_from_anywhere(data: bytes, bits: int, way: tuple[Format, Quantiser], vocab_size: int) -> None:
    codec = LawCodec(vocab_size=vocab_size, format=way[0], quantiser=way[1])
    try:
        message = Message(bits, data)
    except CodecError:
        return
    is_law(codec, message)


@pytest.mark.parametrize(
    ("kept", "masses"),
    [
        ([1, 1], [0.1, 0.1]),
        ([4], [0.1]),
        ([-1], [0.1]),
        ([1], [-0.1]),
        ([1], [math.nan]),
        ([1], [math.inf]),
        ([1, 2], [0.6, 0.5]),
        ([1, 2], [0.6]),
        ([1.5], [0.6]),
    ],
)
def test_what_is_no_truncated_law_is_refused(kept: list[float], masses: list[float]) -> None:
    with pytest.raises(CodecError):
        LawCodec(vocab_size=4).encode(np.array(kept), np.array(masses))


@pytest.mark.parametrize("arguments", [{"b_prob": 1}, {"b_prob": 17}, {"vocab_size": 0}, {"size": 5}, {"size": -1}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        LawCodec(**{"vocab_size": 4, **arguments})


@pytest.mark.parametrize(
    "codec",
    [LawCodec(vocab_size=4, size=2), LawCodec(vocab_size=4, format=Format.DENSE)],
    ids=["known k", "dense"],
)
def test_another_k_than_both_sides_know_is_refused(codec: LawCodec) -> None:
    with pytest.raises(CodecError, match="this codec takes"):
        codec.encode(np.array([1, 2, 3]), np.array([0.1, 0.1, 0.1]))


def test_a_law_of_nothing_is_refused() -> None:
    """With k = |V| there is no rest that could hold the mass; a type of no mass does not exist."""
    with pytest.raises(CodecError, match="all of"):
        LawCodec(vocab_size=2, quantiser=Quantiser.TYPES).encode(np.arange(2), np.zeros(2))


codecs = st.tuples(st.sampled_from([way for way in WAYS if way[0] is not Format.DENSE]), st.integers(2, 16))


def codec_of(way: tuple[tuple[Format, Quantiser], int], vocab_size: int) -> LawCodec:
    (format, quantiser), b_prob = way
    return LawCodec(vocab_size=vocab_size, b_prob=b_prob, format=format, quantiser=quantiser)


@given(laws(), codecs, st.data())
def test_what_is_transmitted_is_a_law(law: Law, way: tuple[tuple[Format, Quantiser], int], data: st.DataObject) -> None:
    """x_hat >= 0, sum x_hat = 1, TV(x, decoded) <= TV(x, x_hat) + TV(x_hat, decoded)."""
    codec = codec_of(way, len(law))
    k = data.draw(st.integers(0, min(len(law), 50)))
    _, x_hat = codec.transmit(law, k)
    assert x_hat.min() >= 0
    assert x_hat.sum() == pytest.approx(1, abs=SUM)
    kept = largest(law, k)
    exact = reconstruct(kept, law[kept], len(law))
    rounding = total_variation(exact, x_hat)
    assert total_variation(law, x_hat) <= total_variation(law, exact) + rounding + SUM
    if codec.b_prob in MEASURED_BITS:
        measured = quantisation_distances(np.sort(law)[::-1], np.array([k]))
        way = list(Quantiser).index(codec.quantiser), MEASURED_BITS.index(codec.b_prob), 0
        # Where masses tie, the remainders of a type may go to other tokens: the distance stays.
        assert measured[way] == pytest.approx(rounding, abs=1e-9)


@given(laws(), st.integers(2, 16), st.data())
def test_types_are_within_one_count(law: Law, b_prob: int, data: st.DataObject) -> None:
    """|x_i - n_i/N| < 1/N for each kept entry and for the rest."""
    codec = LawCodec(vocab_size=len(law), b_prob=b_prob, quantiser=Quantiser.TYPES)
    kept = largest(law, data.draw(st.integers(0, len(law))))
    ids, masses = codec.decode(codec.encode(kept, law[kept]))
    step = (1 + 1e-9) / (2**b_prob - 1)
    assert np.all(np.abs(masses - law[ids]) < step)
    assert abs(masses.sum() - law[ids].sum()) < step


@given(st.data(), codecs)
def test_exact_stays_exact_when_quantised(data: st.DataObject, way: tuple[tuple[Format, Quantiser], int]) -> None:
    """Drafts from decoded x_hat: TV(output, y) = E[s beta_hat] under it, and the output is y without skipping."""
    size = data.draw(st.integers(1, 6))
    (x, y), skip = data.draw(pairs_of(size)), data.draw(skips_of(size))
    _, x_hat = codec_of(way, size).transmit(x, data.draw(st.integers(0, size)))
    verified = np.array([Proposal(draft=d, tested=x_hat[d], law=x_hat).verify(y).law() for d in range(size)])
    assert x_hat @ verified == pytest.approx(y, abs=SUM)
    output = x_hat * skip + (x_hat * (1 - skip)) @ verified
    risk = float(np.sum(x_hat * skip * rejection_probability(x_hat, y)))
    assert total_variation(output, y) == pytest.approx(risk, abs=SUM)


def coarse_output(drafts: Law, y: Law, skip: Law, kept: NDArray[np.int64], masses: Law) -> Law:
    """Law of mode coarse: drafts from `drafts`, skipped with `skip`, verified with decoded `masses` on `kept`."""
    output = drafts * skip
    for d in range(len(y)):
        proposal = CoarseProposal(kept=kept, masses=masses, draft=d if d in kept else None)
        output = output + drafts[d] * (1 - skip[d]) * proposal.verify(y).law()
    return output


@given(st.data(), st.integers(2, 16))
def test_coarse_stays_exact_when_quantised(data: st.DataObject, b_prob: int) -> None:
    """Drafts from the lumped law: TV(output, y) = E[s beta] under it, and the output is y without skipping."""
    size = data.draw(st.integers(1, 6))
    (x, y), skip = data.draw(pairs_of(size)), data.draw(skips_of(size))
    codec = coarse_codec(size, b_prob)
    top = largest(x, data.draw(st.integers(0, size)))
    kept, masses = codec.decode(codec.encode(top, x[top]))
    drafts = lumped_law(x, kept, masses)
    assert drafts.sum() == pytest.approx(1, abs=SUM)
    assert coarse_output(drafts, y, np.zeros(size), kept, masses) == pytest.approx(y, abs=SUM)
    skip[[token for token in range(size) if token not in kept]] = 0.0
    risk = float(np.sum(drafts * skip * rejection_probability(drafts, y)))
    assert total_variation(coarse_output(drafts, y, skip, kept, masses), y) == pytest.approx(risk, abs=SUM)


def test_drafts_from_the_unquantised_law_are_biased() -> None:
    """Why `lumped_law` and `transmit` exist: at 2 bits, drafts from the true x end away from y."""
    x, y = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    codec = coarse_codec(3, 2)
    kept, masses = codec.decode(codec.encode(np.array([0]), x[:1]))
    assert total_variation(coarse_output(x, y, np.zeros(3), kept, masses), y) > 0.04
    _, x_hat = LawCodec(vocab_size=3, b_prob=2).transmit(x, 1)
    verified = np.array([Proposal(draft=d, tested=x_hat[d], law=x_hat).verify(y).law() for d in range(3)])
    assert total_variation(x @ verified, y) > 0.04


@given(st.data())
def test_lumped_law_keeps_the_lump_in_proportion(data: st.DataObject) -> None:
    """Outside the kept set ratios are those of x."""
    x = data.draw(laws_of(5))
    drafts = lumped_law(x, np.array([1]), np.array([0.25]))
    assert drafts[1] == 0.25
    outside = np.delete(x, 1)
    if outside.sum() > 0:
        assert np.delete(drafts, 1) == pytest.approx(0.75 * outside / outside.sum(), abs=SUM)


def rounding_of(law: Law, quantiser: Quantiser, b_prob: int, k: int) -> float:
    """TV(x_hat_k, decoded x_hat_k)."""
    measured = quantisation_distances(np.sort(law)[::-1], np.array([k]))
    return float(measured[list(Quantiser).index(quantiser), MEASURED_BITS.index(b_prob), 0])


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_eight_uniform_bits_distort(exponent: float) -> None:
    """THEORY 3: uniform rounding of a whole Zipf law over 32 000 entries moves it; levels of its density do not."""
    off = {quantiser: rounding_of(zipf(exponent), quantiser, 8, 32_000) for quantiser in Quantiser}
    assert off[Quantiser.UNIFORM] > 0.03
    assert off[Quantiser.TYPES] < off[Quantiser.UNIFORM]
    assert off[Quantiser.LOG] < 0.01


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("k", [30, 300])
def test_quantisers_on_zipf_laws(exponent: float, k: int) -> None:
    """At 8 bits uniform levels are the worst for the k largest entries; 6 bits of cubes are as good."""
    law = zipf(exponent)
    uniform = rounding_of(law, Quantiser.UNIFORM, 8, k)
    assert all(rounding_of(law, way, 8, k) < uniform for way in (Quantiser.LOG, Quantiser.CUBE, Quantiser.TYPES))
    assert rounding_of(law, Quantiser.CUBE, 6, k) < uniform + 0.003


@pytest.mark.parametrize(("exponent", "ratio"), [(1.0, 0.76), (1.5, 0.80), (2.0, 0.48), (3.0, 0.25)])
def test_fewer_bits_than_published_at_equal_tv(exponent: float, ratio: float) -> None:
    """Compact codes against the published k = 30 at 8 bits, 690 bits, at no larger TV(x, decoded x_hat)."""
    law = zipf(exponent)
    message, decoded = LawCodec(vocab_size=32_000).transmit(law, 30)
    assert message.bits == 690
    within = []
    for quantiser, b_prob, k in product(Quantiser, (4, 5, 6, 8), range(8, 36, 2)):
        codec = LawCodec(vocab_size=32_000, b_prob=b_prob, format=Format.COMPACT, quantiser=quantiser)
        compact, other = codec.transmit(law, k)
        if total_variation(law, other) <= total_variation(law, decoded):
            within.append(compact.bits)
    assert min(within) <= ratio * message.bits


@given(st.data(), laws(40), st.integers(2, 16))
def test_masses_rounded_down_are_rounded_alike_whatever_is_sent_with_them(
    data: st.DataObject, law: np.ndarray, b_prob: int
) -> None:
    """What the solver takes the messages of `coarse` and `exact` to say is what is decoded from them."""
    quantiser = data.draw(st.sampled_from([Quantiser.UNIFORM, Quantiser.LOG, Quantiser.CUBE]))
    k = data.draw(st.integers(0, len(law) - 1))
    codec = coarse_codec(len(law), b_prob, quantiser)
    kept, decoded = codec.decode(codec.encode(largest(law, k), law[largest(law, k)]))
    assert decoded == pytest.approx(level_below(law[kept], quantiser, b_prob), abs=1e-15)
    assert np.all(decoded <= law[kept] + 1e-15)


def test_sizes_at_which_rounding_is_measured_end_with_all() -> None:
    assert measured_sizes(1).tolist() == [1]
    assert measured_sizes(8).tolist() == [1, 2, 4, 8]
    assert measured_sizes(151_936).tolist() == [*(2**j for j in range(15)), 151_936]


@pytest.mark.parametrize("quantiser", Quantiser)
@pytest.mark.parametrize("b_prob", [4, 8, 14])
@pytest.mark.parametrize("k", [0, 1, 64, 1024, 1025, 3000, 9000])
def test_bits_in_closed_form(quantiser: Quantiser, b_prob: int, k: int) -> None:
    """`law_bits` is the length of the message: to the bit up to the limit, within a few bits a cut beyond it."""
    vocab_size, rng = 20_000, np.random.default_rng(k)
    kept = rng.permutation(vocab_size)[:k]
    masses = rng.exponential(size=k + 1)
    masses = (masses / masses.sum())[:k]
    for law_format, known in product((Format.COMPACT, Format.PUBLISHED), (True, False)):
        codec = LawCodec(
            vocab_size=vocab_size, b_prob=b_prob, format=law_format, quantiser=quantiser, size=k if known else None
        )
        expected = law_bits(k, vocab_size, b_prob, law_format, quantiser, size_known=known)
        bits = codec.encode(kept, masses).bits
        cuts = 0 if law_format is Format.PUBLISHED or k <= ENUMERATIVE_LIMIT else 2 * k / ENUMERATIVE_LIMIT
        assert abs(bits - expected) <= 12 * cuts


def test_index_bits_name_every_token() -> None:
    for vocab_size in (1, 2, 3, 4, 5):
        codec = LawCodec(vocab_size=vocab_size)
        message = codec.encode(np.array([vocab_size - 1]), np.array([0.5]))
        assert message.bits == 8 + index_bits(vocab_size)
        assert codec.decode(message)[0].tolist() == [vocab_size - 1]
