"""What every backend owes its callers, as checks; what `agree(rows, expected)` means, each backend tells."""

import numpy as np
import pytest

from cuhlm_opt.errors import InputError


def check_protocol(model, tokens, agree):
    """Run all checks on a model with at least three lanes, on a sequence of at least 12 token ids."""
    whole = fresh(model, 0, tokens)
    assert whole.shape == (len(tokens), model.vocab_size)
    assert whole.dtype == np.float32
    check_increments(model, tokens, whole, agree)
    check_lanes(model, tokens, whole, agree)
    check_truncation(model, tokens, whole, agree)
    check_refusals(model, tokens)


def fresh(model, lane, tokens):
    model.truncate(lane, 0)
    return model.extend({lane: tokens})[lane]


def check_increments(model, tokens, whole, agree):
    for sizes in ([1] * len(tokens), [3, 1, 5, len(tokens) - 9]):
        model.truncate(0, 0)
        rows, start = [], 0
        for size in sizes:
            rows.append(model.extend({0: tokens[start : start + size]})[0])
            start += size
        assert model.length(0) == len(tokens)
        agree(np.concatenate(rows), whole)
    model.truncate(0, 0)
    last = model.extend({0: tokens}, last_only=True)[0]
    agree(last, whole[-1:])


def check_lanes(model, tokens, whole, agree):
    """Ragged chunks, lanes that come and go, other lanes' contents: a lane's law is that of its own tokens."""
    for lane in range(model.lanes):
        model.truncate(lane, 0)
    backwards = tokens[::-1]
    alone = fresh(model, 1, backwards)
    model.truncate(1, 0)
    first = model.extend({0: tokens[:5], 1: backwards[:2]})
    second = model.extend({1: backwards[2:8]})
    third = model.extend({2: tokens[:1], 0: tokens[5:7], 1: backwards[8:9]}, last_only=True)
    fourth = model.extend({0: tokens[7:], 2: tokens[1:6]})
    agree(np.concatenate([first[1], second[1], third[1]]), alone[:9])
    agree(first[0], whole[:5])
    agree(third[0], whole[6:7])
    agree(fourth[0], whole[7:])
    agree(np.concatenate([third[2], fourth[2]]), whole[:6])
    assert [model.length(lane) for lane in range(3)] == [len(tokens), 9, 6]


def check_truncation(model, tokens, whole, agree):
    """Roll lanes back together, one alone, and while parked, then go on: equal to a fresh reading."""
    for lane in range(model.lanes):
        model.truncate(lane, 0)
    model.extend({0: tokens, 1: tokens[:6], 2: tokens[:3]})
    for lane, length in ((0, 4), (1, 4), (2, 1)):
        model.truncate(lane, length)
    again = model.extend({0: tokens[4:8], 1: tokens[4:5]})
    model.truncate(0, 6)
    model.truncate(2, 9)
    more = model.extend({0: tokens[6:], 2: tokens[1:4]})
    agree(again[0], whole[4:8])
    agree(again[1], whole[4:5])
    agree(more[0], whole[6:])
    agree(more[2], whole[1:4])
    for _ in range(4):  # a verifier's pattern: draft four, keep one
        model.truncate(0, 5)
        agree(model.extend({0: tokens[5:9]})[0], whole[5:9])


def check_refusals(model, tokens):
    model.truncate(0, 0)
    with pytest.raises(InputError, match="context length"):
        model.extend({0: tokens[:1] * (model.context_length + 1)})
    with pytest.raises(InputError, match="vocabulary"):
        model.extend({0: [model.vocab_size]})
    with pytest.raises(InputError, match="lane 99"):
        model.extend({99: tokens})
    with pytest.raises(InputError, match="at least one"):
        model.extend({0: []})
    assert model.length(0) == 0
