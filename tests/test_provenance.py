"""What changed since the records were made is named once, and what does not matter is not named."""

import pytest

from cuhlm_opt import provenance
from cuhlm_opt.provenance import installed_differences, pair_differences

MODEL = {"backend": "llama.cpp", "llama_cpp_python": "0.3.16", "sha256": "ab", "lanes": 4, "threads": 2, "chunk": 512}
RECORDED = {"name": "p", "slm": MODEL, "llm": MODEL}


def test_the_same_pair_does_not_differ_whatever_its_lanes_and_threads():
    assert pair_differences(RECORDED, {**RECORDED, "slm": {**MODEL, "lanes": 1, "threads": 8}}) == []
    assert pair_differences({"name": "imported"}, RECORDED) == []
    assert pair_differences(RECORDED, {"slm": MODEL}) == [], "of the other one nothing is known"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "cd"}, ["other weights of the SLM"]),
        ({"llama_cpp_python": "0.4.0"}, ["llama_cpp_python 0.3.16 recorded, 0.4.0 in use"]),
        ({"backend": "transformers"}, ["backend llama.cpp recorded, transformers in use"]),
        ({"chunk": 256}, ["chunk 512 recorded, 256 in use"]),
    ],
)
def test_what_the_laws_depend_on_is_named(change, words):
    assert pair_differences(RECORDED, {**RECORDED, "slm": {**MODEL, **change}}) == words


def test_one_version_of_both_models_is_one_line(monkeypatch):
    used = {**RECORDED, **{role: {**MODEL, "llama_cpp_python": "0.4.0"} for role in ("slm", "llm")}}
    assert len(pair_differences(RECORDED, used)) == 1
    monkeypatch.setattr(provenance, "version", lambda package: "0.4.0")
    assert installed_differences(RECORDED) == ["llama-cpp-python 0.3.16 recorded, 0.4.0 installed"]
    monkeypatch.setattr(provenance, "version", lambda package: "0.3.16+cpu")
    assert installed_differences(RECORDED) == []


def test_what_is_not_installed_is_not_compared(monkeypatch):
    def missing(package: str) -> str:
        raise provenance.PackageNotFoundError(package)

    monkeypatch.setattr(provenance, "version", missing)
    assert installed_differences(RECORDED) == []
