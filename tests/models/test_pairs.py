import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from cuhlm_opt.cli.pairs import app
from cuhlm_opt.distributions import softmax, total_variation
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.floor import measure_floor
from cuhlm_opt.models.huggingface import TransformersModel
from cuhlm_opt.models.llamacpp import LlamaCppModel
from cuhlm_opt.models.padding import WithoutPadding, without_padding
from cuhlm_opt.models.pairs import PROBE, check_vocabularies, load_pair, missing_files
from cuhlm_opt.models.registry import registry
from cuhlm_opt.models.tiny import Role, TinyModel


class ShuffledModel(TinyModel):
    """Has the letters of the tiny pair under other ids: every token i is i + 1."""

    def tokenize(self, text):
        return [(token + 1) % (self.vocab_size - 1) for token in super().tokenize(text)]

    def detokenize(self, tokens):
        return super().detokenize([(token - 1) % (self.vocab_size - 1) for token in tokens])


class ClippedModel(TinyModel):
    """Loses the last character of a text."""

    def tokenize(self, text):
        return super().tokenize(text)[:-1]


def test_tiny_pair_loads():
    pair = load_pair("tiny", lanes=3, context_length=100)
    assert (pair.slm.lanes, pair.llm.lanes, pair.slm.context_length) == (3, 3, 100)
    assert pair.provenance()["slm"]["role"] == "slm"
    assert measure_floor(pair, [[0, 1, 2, 3, 4]]).llm == 0.0


def test_shuffled_vocabulary_is_told_with_id_and_bytes():
    with pytest.raises(InputError, match=r"different vocabularies: token 0 is b'a' and b'e'"):
        check_vocabularies(TinyModel(Role.SLM), ShuffledModel(Role.LLM))


class SwappedModel(TinyModel):
    """Has two letters of the tiny pair under each other's ids."""

    def detokenize(self, tokens):
        return super().detokenize([{2: 3, 3: 2}.get(token, token) for token in tokens])


def test_two_swapped_ids_are_told():
    with pytest.raises(InputError, match=r"token 2 is b'c' and b'd'"):
        check_vocabularies(TinyModel(Role.SLM), SwappedModel(Role.LLM))


class MergingModel(TinyModel):
    """Has the tokens of the tiny pair, and cuts text another way."""

    def tokenize(self, text):
        return [*super().tokenize(text)[:-1], 5]


def test_another_cut_of_the_same_tokens_is_told():
    last = TinyModel(Role.SLM).tokenize(PROBE)[-1]
    letter = bytes([ord("a") + last])
    message = f"token {len(PROBE) - 1} of the probe text is {last} ({letter!r}) and 5 (b'')"
    with pytest.raises(InputError) as caught:
        check_vocabularies(TinyModel(Role.SLM), MergingModel(Role.LLM))
    assert message in str(caught.value)


def test_other_size_is_told():
    with pytest.raises(InputError, match="6 tokens and --llm one of 7"):
        check_vocabularies(TinyModel(Role.SLM), TinyModel(Role.LLM, vocab_size=7))


class PaddedModel(WithoutPadding):
    """The tiny LLM with three more entries, the middle one a token or an end on request."""

    def __init__(self, token: bytes = b"", eos: frozenset[int] = frozenset()) -> None:
        super().__init__(TinyModel(Role.LLM), 9)
        self._token, self._eos = token, eos

    @property
    def eos_tokens(self):
        return super().eos_tokens | self._eos

    def detokenize(self, tokens):
        return b"".join(super(PaddedModel, self).detokenize([t]) if t < 6 else self._token * (t == 7) for t in tokens)

    def extend(self, chunks, *, last_only=False):
        logits = super().extend(chunks, last_only=last_only)
        return {lane: np.pad(rows, ((0, 0), (0, 3)), constant_values=-20) for lane, rows in logits.items()}


def test_padding_that_one_model_lacks_is_cut():
    plain, cut = TinyModel(Role.LLM), without_padding(PaddedModel(), 6)
    check_vocabularies(TinyModel(Role.SLM), cut)
    prompt = plain.chat_tokens("abc")
    assert cut.chat_tokens("abc") == prompt
    np.testing.assert_array_equal(cut.extend({0: prompt})[0], plain.extend({0: prompt})[0])
    assert (cut.vocab_size, cut.lanes, cut.length(0), cut.context_length) == (6, 1, len(prompt), plain.context_length)
    cut.truncate(0, 1)
    assert cut.length(0) == 1
    assert cut.provenance()["vocab_size"] == 6
    cut.close()


@pytest.mark.parametrize("model", [PaddedModel(token=b"x"), PaddedModel(eos=frozenset({7})), TinyModel(Role.LLM)])
def test_nothing_but_padding_is_cut(model):
    assert without_padding(model, 6) is model


def test_shorter_reading_is_told():
    with pytest.raises(InputError, match=f"token {len(PROBE) - 1} of the probe text .* and missing"):
        check_vocabularies(TinyModel(Role.SLM), ClippedModel(Role.LLM))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "qwen2.5-codr"}, "--pair 'qwen2.5-codr' is unknown; did you mean qwen2.5-coder"),
        ({"name": "tiny", "slm": "a.gguf", "llm": "b.gguf"}, "cannot be combined"),
        ({"slm": "a.gguf"}, "--llm is missing"),
        ({"slm": "a/b", "llm": "c/d", "backend": "llama.cpp"}, "give a .gguf file"),
        ({"slm": "a/b", "llm": "c/d", "backend": "tiny"}, "give --pair tiny"),
        ({"name": "tiny", "backend": "transformer"}, "did you mean transformers"),
        ({"name": "tiny", "backend": "transformers"}, "it needs 'tiny'"),
        ({"slm": "no-such.gguf", "llm": "no-such.gguf"}, "no such file"),
        ({"name": "tiny", "lanes": 0}, "lanes 0"),
    ],
)
def test_bad_requests_are_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        load_pair(**options)
    assert "\n" not in str(caught.value)


def test_pair_that_was_not_fetched_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setenv("CUHLM_CACHE", str(tmp_path))
    assert len(missing_files(None)) == 2
    with pytest.raises(InputError, match=r"cuhlm-opt pairs fetch qwen2.5-coder"):
        load_pair()


def test_registry_is_whole():
    known = registry()
    assert known.default in known.pairs
    for entry in known.pairs.values():
        assert set(known.files_of(entry)) in ({"slm", "llm"}, set())
    for file in known.files.values():
        assert file.derived or file.index or file.hub
        assert file.derived is None or file.derived.source in known.files
        assert len(file.sha256) == 64


def test_importing_pairs_loads_no_framework():
    heavy = ("torch", "llama_cpp", "transformers")
    code = f"import sys, cuhlm_opt.models.pairs; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def run(*arguments):
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout)


def test_cli_list():
    listed = run("list", "--json")
    assert listed["default"] == "qwen2.5-coder"
    assert {"name": "tiny", "bytes": 0, "ready": True}.items() <= {entry["name"]: entry for entry in listed["pairs"]}[
        "tiny"
    ].items()


def test_cli_check_and_fetch_of_the_tiny_pair():
    assert run("fetch", "tiny", "--json") == {"pair": "tiny", "files": {}}
    assert run("check", "tiny", "--json")["vocab_size"] == 6


@pytest.mark.real
def test_cli_check_of_a_real_pair(smollm2_files):
    report = run("check", "smollm2-q2", "--json")
    assert report["vocab_size"] == 49152
    assert report["llm"]["bytes"] == smollm2_files["llm"].stat().st_size
    assert report["llm"]["as_recorded"]


@pytest.mark.real
def test_one_gguf_file_as_two_backends_has_one_vocabulary(smollm2_files):
    """Token ids and chat tokens agree between llama.cpp and transformers."""
    path = str(smollm2_files["llm"])
    llama = LlamaCppModel(path, context_length=64, threads=1)
    other = TransformersModel(path, context_length=64, device="cpu", dtype="bfloat16")
    check_vocabularies(llama, other)
    prompt = "def f(x):\n    return x  # <|im_end|> \u4e2d\u6587"
    tokens = llama.chat_tokens(prompt)
    assert other.chat_tokens(prompt) == tokens
    ours, theirs = (model.extend({0: tokens}, last_only=True)[0][0] for model in (llama, other))
    assert total_variation(softmax(ours), softmax(theirs)) < 0.1
    llama.close()
    other.close()
