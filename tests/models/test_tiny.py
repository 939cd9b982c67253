from fractions import Fraction

import numpy as np
import pytest
from protocol_checks import check_protocol

from cuhlm_opt.errors import InputError
from cuhlm_opt.models.tiny import Role, TinyModel, tiny_logits

SIZES = (2, 6, 26)


def laws(role, vocab_size=6):
    weights = np.exp(tiny_logits(role, vocab_size).astype(np.float64))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("vocab_size", SIZES)
def test_meets_the_protocol_exactly(vocab_size):
    model = TinyModel(Role.LLM, lanes=3, vocab_size=vocab_size, context_length=40)
    tokens = [(3 * i * i + i) % vocab_size for i in range(17)]
    check_protocol(model, tokens, np.testing.assert_array_equal)


@pytest.mark.parametrize("vocab_size", SIZES)
@pytest.mark.parametrize("role", Role)
def test_logits_are_multiples_of_one_64th(role, vocab_size):
    assert all(Fraction(float(entry)) * 64 % 1 == 0 for entry in tiny_logits(role, vocab_size).ravel())


def test_laws_differ_and_vary_in_confidence():
    slm, llm = laws(Role.SLM), laws(Role.LLM)
    variation = 0.5 * np.abs(slm - llm).sum(axis=-1)
    assert variation.min() < 0.02
    assert variation.max() > 0.3
    assert 0.1 < variation.mean() < 0.25
    assert llm.max(axis=-1).min() < 0.3  # a flat context
    assert llm.max(axis=-1).max() > 0.95  # a peaked one


def test_end_is_rare_and_always_possible():
    llm = laws(Role.LLM)
    assert (llm[:, :, -1] > 0).all()
    visits = np.full((6, 6), 1 / 36)
    for _ in range(200):
        visits = np.einsum("bl,bln->ln", visits, llm)
    assert 0.01 < (visits * llm[:, :, -1]).sum() < 0.05


def test_logits_follow_the_last_two_tokens():
    model = TinyModel(Role.SLM)
    rows = model.extend({0: [2, 4, 1]})[0]
    table = tiny_logits(Role.SLM)
    np.testing.assert_array_equal(rows, [table[5, 2], table[2, 4], table[4, 1]])


@pytest.mark.parametrize("text", ["abc", "Write a function, bitte: 中文 😀\n", ""])
def test_any_prompt_is_accepted(text):
    model = TinyModel(Role.LLM)
    tokens = model.chat_tokens(text)
    assert len(tokens) == 1 + len(text)
    assert tokens[0] in model.eos_tokens
    assert model.extend({0: tokens}).keys() == {0}


def test_letters_are_themselves():
    model = TinyModel(Role.LLM)
    assert model.tokenize("abcde") == [0, 1, 2, 3, 4]
    assert model.detokenize([4, 3, 5, 0]) == b"eda"


def test_refuses_a_vocabulary_out_of_range():
    with pytest.raises(InputError, match="27"):
        TinyModel(Role.LLM, vocab_size=27)
