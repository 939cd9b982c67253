"""`solve` says where a calibration is not of the use that is stated, or of what is installed."""

import pytest
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt import provenance
from cuhlm_opt.solve import solve

MODEL = {"backend": "llama.cpp", "llama_cpp_python": "0.3.16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=5, prompts=6)
    write_synthetic(path, table, {**metadata, "pair": {"name": "synthetic", "slm": MODEL, "llm": MODEL}})
    return str(path)


def warnings(folder: str, **stated) -> str:
    return " ".join(solve(folder, bandwidth_hz=10e6, domain="code", policy="budget", **stated).warnings)


@pytest.fixture
def installed(monkeypatch):
    def install(found: str) -> None:
        monkeypatch.setattr(provenance, "version", lambda package: found)

    return install


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"pair": "qwen"}, "pair qwen is meant, and the calibration is of synthetic"),
        ({"backend": "transformers"}, "backend transformers is meant, and the calibration is of llama.cpp"),
        ({"temperature": 0.7}, "temperature 0.7 is meant, and the calibration is of 1.0"),
        ({"top_p": 0.9}, "top_p 0.9 is meant, and the calibration is of 1.0"),
    ],
)
def test_a_stated_use_that_differs_is_warned_of(folder, installed, stated, words):
    installed("0.3.16")
    assert words in warnings(folder, **stated)


def test_the_recorded_use_is_not_warned_of(folder, installed):
    installed("0.3.16")
    plain = warnings(folder)
    assert warnings(folder, pair="synthetic", backend="llama.cpp", temperature=1.0, top_p=1.0) == plain
    assert "do not carry over" not in plain


def test_another_installed_version_is_warned_of(folder, installed):
    installed("0.4.0")
    assert "llama-cpp-python 0.3.16 recorded, 0.4.0 installed: laws may have changed" in warnings(folder)


def test_the_point_hands_on_the_provenance_of_the_models(folder):
    point = solve(folder, bandwidth_hz=10e6, domain="code", policy="budget")
    assert point.calibration.models == {"name": "synthetic", "slm": MODEL, "llm": MODEL}
