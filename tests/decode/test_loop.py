"""The loop: caches in step, exact ends, figures that follow from the steps, the same seed giving the same answer."""

import json
from typing import Any

import numpy as np
import pytest
from decode_fakes import PROMPT, SLM, certain, fake_pair, operating_point

from cuhlm_opt.artefacts import CalibrationRef, ChannelSettings, StateThreshold
from cuhlm_opt.channel_states import channel_states
from cuhlm_opt.decode import loop
from cuhlm_opt.decode.default_point import default_operating_point
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.decode.verifier import Ruling, Verifier
from cuhlm_opt.distributions import softmax
from cuhlm_opt.errors import InputError
from cuhlm_opt.latency import Accounting
from cuhlm_opt.links import link_of
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.truncation import smallest_size

GATED = ["random", "u-hlm", "cu-hlm-offline", "cu-hlm-online", "exact", "coarse", "query"]
CYCLE = certain([1, 2, 3, 4, 5, 0])  # 0 1 2 3 4 5 0 ...: the prompt ends with 3


def tokens_of(result: Any) -> list[int]:
    return [step.token for step in result.steps]


@pytest.mark.parametrize("mode", ["hlm", *GATED])
def test_every_token_is_read_once_and_one_pass_answers_one_upload(mode: str) -> None:
    pair = fake_pair()
    result = decode(pair, operating_point(mode), "go", seed=3, max_tokens=200)
    whole = [*PROMPT, *tokens_of(result)]
    skips_at_end = next((i for i, step in enumerate(reversed(result.steps)) if not step.skipped), 0)
    assert pair.slm.cache == whole[:-1], "the SLM reads all but the last token"
    assert pair.llm.cache == whole[:-1], "so does the LLM, the flush included"
    assert [len(chunk) for chunk in pair.slm.chunks] == [3, *[1] * 200]
    passes = pair.llm.chunks[1 : len(pair.llm.chunks) - (skips_at_end > 0)]
    assert [len(chunk) for chunk in passes] == [step.read for step in result.uploads]
    assert all(step.read == 0 for step in result.steps if step.skipped)
    figures = result.to_json()
    assert figures["llm_tokens_read"] + figures["llm_tokens_flushed"] + 3 == len(pair.llm.cache)
    assert figures["llm_tokens_flushed"] == skips_at_end
    assert figures["server_passes_per_token"] == figures["uploads"] / 200 == pytest.approx(1 - figures["skip_rate"])


def test_one_model_modes_leave_the_other_alone() -> None:
    pair = fake_pair()
    slm_only = decode(pair, operating_point("slm"), "go", max_tokens=20)
    assert (pair.llm.chunks, len(pair.slm.chunks)) == ([], 21)
    assert (slm_only.bias_skip, slm_only.risk_expected, slm_only.link_s) == (None, None, 0)
    assert slm_only.to_json()["skip_rate"] == 1
    pair = fake_pair()
    llm_only = decode(pair, operating_point("llm"), "go", max_tokens=20)
    assert (pair.slm.chunks, len(pair.llm.chunks)) == ([], 21)
    assert (llm_only.bias_skip, llm_only.risk_expected, llm_only.uploads) == (0, 0, ())
    assert llm_only.link_s == 0.5 + 20 * 0.25, "one round trip an answer, one token on the downlink each"
    assert llm_only.to_json()["server_passes_per_token"] == 1


def test_long_skips_are_caught_up_in_one_pass() -> None:
    """Certain at 3 4 5 0, unsure behind 1 and 2: the skips between two uploads are one chunk."""
    slm = CYCLE.copy()
    slm[[1, 2]] = 0.0
    pair = fake_pair(slm, CYCLE)
    result = decode(pair, operating_point("u-hlm"), "go", max_tokens=14)
    assert tokens_of(result) == [(4 + i) % 6 for i in range(14)]
    assert pair.llm.chunks == [[0, 1, 2], [3, 4, 5, 0, 1], [2], [3, 4, 5, 0, 1], [2], [3, 4]]
    assert [step.read for step in result.steps] == [0] * 4 + [5, 1] + [0] * 4 + [5, 1] + [0] * 2
    assert result.flushed == 2
    assert result.bias_skip == 0, "the LLM agrees with every skip"


def test_skipping_everything_sends_nothing_and_still_learns_the_risk() -> None:
    pair = fake_pair(CYCLE, certain([1, 2, 3, 4, 0, 0]))  # the LLM disagrees behind 4 only
    result = decode(pair, operating_point("u-hlm", u_threshold=1.0), "go", max_tokens=12)
    figures = result.to_json()
    assert (figures["uploads"], figures["payload_bits"], figures["uplink_s"], result.link_s) == (0, None, None, 0)
    assert pair.llm.chunks == [[0, 1, 2], [3, *tokens_of(result)[:-1]]]
    assert figures["llm_tokens_flushed"] == 12
    assert figures["bias_skip"] == figures["risk_expected"] == 2 / 12
    assert figures["server_passes_per_token"] == 0


@pytest.mark.parametrize("mode", ["slm", "llm", "hlm", "u-hlm", "coarse", "query", "cu-hlm-offline", "exact"])
@pytest.mark.parametrize(("limit", "reason", "text"), [(9, "eos", "e"), (2, "eos", "e"), (1, "length", "e")])
def test_eos_ends_the_answer_exactly(mode: str, limit: int, reason: str, text: str) -> None:
    """4 5 follow the prompt and 5 ends the answer: in the middle, at the limit, behind it; skipped or verified."""
    for threshold in (None, 0.49, 1.0):
        result = decode(
            fake_pair(CYCLE, CYCLE, eos=[5]), operating_point(mode, u_threshold=threshold), "go", max_tokens=limit
        )
        assert (result.finish_reason, result.text) == (reason, text)
        assert tokens_of(result) == [4, 5][:limit]
        assert result.to_json()["n_tokens"] == min(limit, 2)


def test_eos_from_a_redraw_and_from_a_lump() -> None:
    llm = certain([1, 2, 3, 5, 5, 0])  # redraws 5 where the SLM says 4
    redrawn = decode(fake_pair(CYCLE, llm, eos=[5]), operating_point("hlm"), "go")
    assert (tokens_of(redrawn), redrawn.text, redrawn.to_json()["rejections"]) == ([5], "", 1)
    lumped = decode(fake_pair(np.zeros((6, 6), dtype=np.float32), llm, eos=[5]), operating_point("coarse"), "go")
    assert (tokens_of(lumped), lumped.text, lumped.to_json()["rejections"]) == ([5], "", 0)


def test_context_ends_the_answer_and_a_longer_prompt_is_refused() -> None:
    """A context of 6 holds the prompt and two tokens; the third is never read."""
    for mode in Mode:
        pair = fake_pair(context=6)
        result = decode(pair, operating_point(mode), "go", max_tokens=9)
        assert (len(result.steps), result.finish_reason) == (3, "context")
        assert decode(pair, operating_point(mode), "go", max_tokens=3).finish_reason == "length"
        assert len(decode(fake_pair(context=4), operating_point(mode), "go", max_tokens=9).steps) == 1
        pair = fake_pair(context=3)
        with pytest.raises(InputError, match="4 tokens; at most 3"):
            decode(pair, operating_point(mode), "go")
        assert pair.slm.chunks == pair.llm.chunks == []


@pytest.mark.parametrize("mode", list(Mode))
def test_a_prompt_of_one_token(mode: Mode) -> None:
    pair = fake_pair()
    result = decode(pair, operating_point(mode), "a", max_tokens=5)
    assert len(result.steps) == 5
    assert result.prompt_tokens == 1


@pytest.mark.parametrize("mode", list(Mode))
def test_same_seed_same_json_but_timing(mode: Mode) -> None:
    def run(seed: int) -> dict[str, Any]:
        figures = decode(fake_pair(), operating_point(mode), "go", seed=seed, max_tokens=60).to_json()
        timing = figures.pop("timing")
        assert all(isinstance(value, float) for value in timing.values())
        return dict(json.loads(json.dumps(figures, allow_nan=False)))

    first = run(1)
    assert run(1) == first
    assert run(2)["text"] != first["text"]


def test_a_pair_can_answer_again() -> None:
    pair = fake_pair()
    first = decode(pair, operating_point("u-hlm"), "go", seed=1, max_tokens=30)
    assert decode(pair, operating_point("u-hlm"), "go", seed=1, max_tokens=30).text == first.text


@pytest.mark.parametrize("mode", ["hlm", *GATED])
def test_figures_follow_from_what_was_verified(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Ruling]] = []
    genuine = Verifier.verify

    def recording(self: Verifier, skipped: Any, told: Any, message: Any, skippable: Any) -> Ruling:
        ruling = genuine(self, skipped, told, message, skippable)
        seen.append((message, ruling))
        return ruling

    monkeypatch.setattr(loop.Verifier, "verify", recording)
    result = decode(fake_pair(), operating_point(mode, u_threshold=0.75), "go", seed=4, max_tokens=150)
    figures = result.to_json()
    entry = 8 + 3  # |V| = 6 takes three bits
    sizes = {"query": 0, "cu-hlm-offline": 2, "exact": 2}
    if mode == "coarse":
        entries = [message.bits // entry for message, _ in seen]
    elif mode == "cu-hlm-online":
        contexts = zip([PROMPT[-1], *tokens_of(result)], result.steps, strict=False)
        entries = [smallest_size(softmax(SLM[before]), 0.1) for before, step in contexts if not step.skipped]
    else:
        entries = [sizes.get(mode, 6)] * len(seen)
    assert figures["payload_bits_total"] == sum(entries) * entry
    assert figures["payload_bits"] == pytest.approx(sum(entries) * entry / len(seen))
    assert figures["k_mean"] == pytest.approx(np.mean(entries))
    assert figures["uplink_s"] == pytest.approx(figures["payload_bits"] / 1e3)
    assert figures["link_total_s"] == pytest.approx(figures["payload_bits_total"] / 1e3 + len(seen) * 0.75)
    assert figures["uploads"] == len(seen)
    assert figures["skip_rate"] == pytest.approx(1 - len(seen) / 150)
    rejections = None if mode == "query" else sum(not ruling.accepted for _, ruling in seen)
    assert figures["rejections"] == rejections
    assert figures["llm_tokens_read"] == sum(ruling.read for _, ruling in seen)


def test_throughput_is_tokens_over_measured_compute_and_priced_link() -> None:
    result = decode(fake_pair(), operating_point("hlm"), "go", max_tokens=10)
    timing = result.to_json()["timing"]
    measured = timing["slm_total_s"] + timing["gate_total_s"] + timing["llm_total_s"]
    assert measured > 0
    assert timing["latency_s"] == pytest.approx((measured + 10 * (66 / 1e3 + 0.75)) / 10)
    assert timing["throughput_tokens_per_s"] == pytest.approx(1 / timing["latency_s"])
    assert timing["elapsed_total_s"] < 10 * 0.75, "the link is priced, not slept"


def test_streaming_yields_whole_characters() -> None:
    """Tokens are the single bytes of the text: nothing is shown before a character is complete."""
    text = "é🙂a"
    data = text.encode()
    table = certain([*range(1, len(data)), len(data), 0], len(data) + 1)
    pieces = [bytes([byte]) for byte in data] + [b"<eos>"]
    shown: list[str] = []
    pair = fake_pair(table, table, eos=[len(data)], pieces=pieces)
    pair.llm.chat_tokens = lambda prompt: [len(data)]
    result = decode(pair, operating_point("u-hlm"), "go", on_text=shown.append)
    assert shown == ["é", "🙂", "a"]
    assert (result.text, result.finish_reason) == (text, "eos")
    cut: list[str] = []
    result = decode(pair, operating_point("u-hlm"), "go", max_tokens=4, on_text=cut.append)
    assert "".join(cut) == result.text == data[:4].decode(errors="replace")


def test_bad_arguments_are_refused_before_any_work() -> None:
    pair = fake_pair()
    for arguments, named in (
        ({"prompt": " \n"}, "prompt is empty"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"seed": -1}, "seed -1"),
        ({"point": operating_point("exact", k=None)}, "k"),
    ):
        with pytest.raises(InputError, match=named):
            decode(pair, **{"point": operating_point("hlm"), "prompt": "go", **arguments})
    assert pair.slm.chunks == pair.llm.chunks == []


def test_warnings_name_what_cannot_be_trusted() -> None:
    other = CalibrationRef(id="other", pair="other", domain="general")
    point = operating_point("query", calibration=other, accounting=Accounting.MEAN_RATE, warnings=("from the solver",))
    warnings = decode(fake_pair(), point, "go", max_tokens=3).warnings
    assert [word in " ".join(warnings) for word in ("from the solver", "'other'", "query", "mean-rate")] == [True] * 4
    assert decode(fake_pair(), operating_point("u-hlm"), "go", max_tokens=3).warnings == ()


def test_a_pair_with_other_laws_than_the_recorded_one_is_named() -> None:
    pair = load_pair("tiny")
    models = pair.provenance()
    point = default_operating_point(pair.name, Mode.U_HLM)

    def warnings(models: dict[str, Any]) -> str:
        reference = point.calibration.model_copy(update={"models": models})
        return " ".join(decode(pair, point.model_copy(update={"calibration": reference}), "a", max_tokens=2).warnings)

    assert warnings(models) == ""
    changed = warnings({**models, "slm": {**models["slm"], "backend": "llama.cpp"}})
    assert "backend llama.cpp recorded, tiny in use; calibrate --check" in changed


@pytest.mark.parametrize("mode", ["u-hlm", "cu-hlm-offline", "coarse", "exact"])
def test_thresholds_follow_the_state_of_the_channel(mode: str) -> None:
    """A state that never skips and one that always does: half of the tokens, each upload at its own state's price."""
    channel = ChannelSettings(kind="rayleigh", bandwidth_hz=1e3, snr_db=0.0)
    states = channel_states(link_of(channel).uplink)
    thresholds = [
        StateThreshold(seen=state.seen, probability=state.probability, uplink_s=1.0, u_threshold=threshold)
        for state, threshold in zip(states, (None, 1.0), strict=True)
    ]
    point = operating_point(mode, channel=channel, state_thresholds=tuple(thresholds))
    result = decode(fake_pair(), point, "go", seed=5, max_tokens=600)
    skipped = np.array([step.skipped for step in result.steps])
    assert [step.state for step in result.steps] == skipped.astype(int).tolist()
    spread = np.sqrt(states[0].probability * states[1].probability / 600)
    assert abs(skipped.mean() - states[1].probability) < 4 * spread
    fast = states[0].uplink
    assert result.link_s == pytest.approx(float(fast.mean_s(result.payload_bits_total)))
    waits = [each.model_copy(update={"u_threshold": t}) for each, t in zip(thresholds, (1.0, None), strict=True)]
    slow = decode(fake_pair(), point.model_copy(update={"state_thresholds": tuple(waits)}), "go", seed=5)
    assert slow.link_s == pytest.approx(float(states[1].uplink.mean_s(slow.payload_bits_total)))
