"""`solve` as a whole: the keys, the budget, the policies, what is recommended, and every refusal."""

import json

import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.artefacts import Calibration, Floor, OperatingPoint
from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.solve import Policy, solve

KEYS = [
    "schema_version",
    "status",
    "policy",
    "mode",
    "signal",
    "u_threshold",
    "skip_rate",
    "skip_rate_ci",
    "k",
    "k_mean",
    "truncation_rule",
    "theta",
    "b_prob",
    "format",
    "draft_length",
    "payload_bits",
    "compression",
    "uplink_s",
    "latency_s",
    "latency_p95_s",
    "throughput_tokens_per_s",
    "speedup_vs_hlm",
    "speedup_vs_hlm_published",
    "bias_skip",
    "bias_truncation",
    "bias_quantisation",
    "bias_total",
    "bias_budget",
    "numeric_floor",
    "certificate",
    "binding",
    "accounting",
    "domain",
    "temperature",
    "baselines",
    "recommended",
    "assumptions",
    "calibration",
    "warnings",
]
"""The JSON keys that DESIGN lists."""
ROW_KEYS = ["mode", "throughput_tokens_per_s", "latency_s", "payload_bits", "server_passes_per_token", "bias"]

_, TABLE, METADATA = synthetic_positions(seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(path, TABLE, METADATA)
    return path


def at(folder, **settings) -> OperatingPoint:
    return solve(
        str(folder), **{"bandwidth_hz": 1e6, "domain": "code", "max_bias": 0.05, "policy": "budget", **settings}
    )


def row(point: OperatingPoint, mode: Mode):
    return next(row for row in point.baselines if row.mode is mode)


def test_json_has_every_key_and_every_mode(folder):
    document = json.loads(at(folder).model_dump_json())
    assert set(KEYS) <= set(document)
    assert [entry["mode"] for entry in document["baselines"]] == [str(mode) for mode in Mode]
    assert all(set(ROW_KEYS) <= set(entry) for entry in document["baselines"])
    assert set(document["recommended"]) == {"mode", "reason"}
    assert document["calibration"] == {
        "id": "synthetic",
        "pair": "synthetic",
        "domain": "code",
        "models": {"name": "synthetic"},
    }


def test_round_trip_as_a_file(folder, tmp_path):
    point = at(folder)
    point.write(tmp_path / "point.json")
    assert OperatingPoint.read(tmp_path / "point.json") == point


def test_same_input_same_point(folder):
    assert at(folder) == at(folder)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_point_agrees_with_its_row(folder, mode):
    point = at(folder, mode=mode)
    mine = row(point, mode)
    assert (point.throughput_tokens_per_s, point.latency_s, point.payload_bits) == (
        mine.throughput_tokens_per_s,
        mine.latency_s,
        mine.payload_bits,
    )
    assert (point.bias_total, point.u_threshold, point.skip_rate, point.k) == (
        mine.bias,
        mine.u_threshold,
        mine.skip_rate,
        mine.k,
    )
    assert point.status == "optimal"


@pytest.mark.parametrize("max_bias", [0.0, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("domain", ["code", "general"])
def test_budget_is_never_exceeded_by_a_mode_that_is_solved_for_it(folder, max_bias, domain):
    point = at(folder, max_bias=max_bias, domain=domain)
    for mode in (Mode.QUERY, Mode.EXACT, Mode.COARSE):
        assert row(point, mode).bias <= max_bias
    for mode in (Mode.U_HLM, Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE):
        assert row(point, mode).bias <= max_bias or row(point, mode).u_threshold is None
    parts = (point.bias_skip, point.bias_truncation, point.bias_quantisation)
    assert point.bias_total == pytest.approx(sum(parts), abs=1e-15)


def test_rounding_beyond_the_budget_never_skips_is_warned_of_and_not_recommended(folder):
    point = at(folder, max_bias=0.0, mode=Mode.U_HLM)
    assert (point.u_threshold, point.bias_skip) == (None, 0.0)
    assert point.bias_total == point.bias_quantisation > 0
    assert any("bias" in line and "exceeds the budget" in line for line in point.warnings)
    assert point.recommended.mode in (Mode.LLM, Mode.EXACT, Mode.COARSE, Mode.QUERY, Mode.SPECULATIVE)


def test_truncation_and_rounding_take_their_share_before_skipping(folder):
    point = at(folder)
    assert point.bias_truncation > 0
    assert point.bias_quantisation > 0
    left = 0.05 - point.bias_truncation - point.bias_quantisation
    assert 0.8 * left < point.bias_skip <= left
    assert point.theta == point.bias_truncation


def test_domains_are_kept_apart(folder):
    assert at(folder, domain="code").u_threshold != at(folder, domain="general").u_threshold


def test_domain_not_chosen_is_general_with_a_warning(folder):
    point = at(folder, domain=None)
    assert point.domain == "general"
    assert any("domain not chosen" in line and "code, general" in line for line in point.warnings)
    assert not any("domain" in line for line in at(folder).warnings)


def test_random_has_the_skip_rate_of_the_chosen_mode(folder):
    for mode in (Mode.CU_HLM_OFFLINE, Mode.QUERY, Mode.COARSE):
        point = at(folder, mode=mode)
        assert row(point, Mode.RANDOM).skip_rate == point.skip_rate
    point = at(folder, mode=Mode.HLM)
    assert row(point, Mode.RANDOM).skip_rate == row(point, Mode.U_HLM).skip_rate


def test_uncertainty_beats_the_coin_at_equal_skip_rate(folder):
    point = at(folder, mode=Mode.COARSE)
    assert point.bias_total < row(point, Mode.RANDOM).bias


def test_speedups_are_against_hlm_in_both_formats(folder):
    point = at(folder, law_format="dense")
    assert point.speedup_vs_hlm == pytest.approx(
        point.throughput_tokens_per_s / row(point, Mode.HLM).throughput_tokens_per_s
    )
    published = at(folder, law_format="published")
    assert published.speedup_vs_hlm_published == pytest.approx(
        published.throughput_tokens_per_s / row(published, Mode.HLM).throughput_tokens_per_s
    )
    assert published.speedup_vs_hlm / published.throughput_tokens_per_s == pytest.approx(
        point.speedup_vs_hlm / point.throughput_tokens_per_s
    )


def test_latency_is_a_law(folder):
    point = at(folder, max_bias=0.02)
    assert point.skip_rate < 0.95
    assert TIMES.slm_s + TIMES.gate_s <= point.latency_p50_s < point.latency_s < point.latency_p95_s
    assert point.latency_p95_s <= point.latency_p99_s
    answer = at(folder, max_bias=0.02, answer_tokens=16).answer_latency
    assert answer.p50_s <= answer.p95_s <= answer.p99_s
    assert answer.mean_s == pytest.approx(16 * at(folder, max_bias=0.02, answer_tokens=16).latency_s, rel=0.1)
    alone = at(folder, mode=Mode.LLM, answer_tokens=16, rtt_s=0.1).answer_latency
    assert alone.p99_s == alone.mean_s == pytest.approx(16 * 0.04 + 0.1)
    everything = at(folder, max_bias=1.0)
    assert everything.latency_p95_s == everything.latency_s == pytest.approx(TIMES.slm_s + TIMES.gate_s)


def test_recommended_is_the_fastest_within_the_budget(folder):
    for settings in ({}, {"bandwidth_hz": 1e4}, {"llm_s": 0.4}, {"rtt_s": 0.5}, {"max_bias": 1.0}, {"max_bias": 0.0}):
        point = at(folder, **settings)
        allowed = [
            entry
            for entry in point.baselines
            if entry.mode is not Mode.RANDOM and entry.bias is not None and entry.bias <= point.bias_budget
        ]
        best = max(entry.throughput_tokens_per_s for entry in allowed)
        chosen = row(point, point.recommended.mode)
        assert chosen.throughput_tokens_per_s == best or (
            chosen.mode is Mode.COARSE and chosen.throughput_tokens_per_s >= 0.99 * best
        )
        assert "llm" in point.recommended.reason or point.recommended.mode is Mode.LLM


def test_llm_is_recommended_where_it_wins_and_the_hybrid_s_case_is_told(folder):
    point = at(folder, max_bias=0.01, rtt_s=0.05)
    assert point.recommended.mode is Mode.LLM
    assert "LLM passes" in point.recommended.reason


def test_slow_server_favours_the_hybrid_and_coarse_names_its_bits(folder):
    point = at(folder, llm_s=1.0, max_bias=0.1, bandwidth_hz=1e5, b_prob=16)
    assert point.recommended.mode is Mode.COARSE
    assert "bits an upload" in point.recommended.reason
    assert "llm" in point.recommended.reason


def test_no_budget_keeps_only_what_is_free_and_writes_laws_as_exactly_as_it_can(folder):
    point = at(folder, max_bias=0.0)
    assert point.bias_total == point.bias_truncation + point.bias_quantisation <= 0.001
    assert row(point, Mode.EXACT).bias == row(point, Mode.COARSE).bias == 0
    assert (point.u_threshold is None) == any("every token asks" in line for line in point.warnings)


def test_truncation_dearer_than_a_dense_law_is_warned_of(folder):
    assert any("sent dense (2,400)" in line for line in at(folder, max_bias=0.0).warnings)
    assert not any("sent dense" in line for line in at(folder, max_bias=0.3).warnings)


@pytest.mark.parametrize("calibration", ["published-cu-hlm", "published-u-hlm"])
@pytest.mark.parametrize("policy", list(Policy))
def test_published_models_give_thresholds_and_null_for_what_needs_records(calibration, policy):
    expected = {
        ("published-cu-hlm", Policy.RISK_AVERSE): 0.0810,
        ("published-cu-hlm", Policy.RISK_PRONE): 0.8117,
        ("published-u-hlm", Policy.RISK_AVERSE): 0.0732,
        ("published-u-hlm", Policy.RISK_PRONE): 0.43,
    }
    point = solve(calibration, bandwidth_hz=10e6, policy=policy)
    threshold = expected.get((calibration, policy))
    assert point.u_threshold == (None if threshold is None else pytest.approx(threshold, abs=5e-5))
    assert point.signal == "u_mc"
    assert point.status == "incomplete"
    assert (point.skip_rate, point.k, point.bias_total, point.throughput_tokens_per_s) == (None,) * 4
    assert any("no records" in line for line in point.warnings)
    assert any("no compute times" in line for line in point.warnings)
    assert point.recommended.mode is None


def test_published_models_with_given_times_rank_what_is_known():
    point = solve("published-cu-hlm", bandwidth_hz=10e6, slm_s=0.02, llm_s=0.05)
    assert row(point, Mode.LLM).throughput_tokens_per_s == pytest.approx(20)
    assert row(point, Mode.HLM).payload_bits == 8 * 32000
    assert point.recommended.mode is Mode.LLM


def with_line(folder, tmp_path, **line) -> str:
    """The synthetic calibration with another fitted line."""
    for name in ("records.parquet", "calibration.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    document = json.loads((tmp_path / "calibration.json").read_text())
    document["domains"]["code"]["signals"]["u_bar"].update(line)
    (tmp_path / "calibration.json").write_text(json.dumps(document))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("policy", "line", "numbers"),
    [
        (Policy.RISK_PRONE, {"a": 0.51, "b": -0.0, "risk_prone": 1.09}, "1.0900"),
        (Policy.RISK_AVERSE, {"a": 0.5, "b": 0.02, "risk_averse": -0.04}, "-0.0400"),
        (Policy.RISK_AVERSE, {"a": -0.1, "b": 0.2, "risk_averse": None}, "no value"),
    ],
)
def test_degenerate_threshold_is_reported_and_not_used(folder, tmp_path, policy, line, numbers):
    point = at(with_line(folder, tmp_path, **line), policy=policy)
    assert point.status == "degenerate"
    assert point.u_threshold is None
    assert point.u_threshold_computed == line.get("risk_prone", line.get("risk_averse"))
    assert point.skip_rate == 0
    assert point.bias_skip == 0
    warning = next(text for text in point.warnings if "degenerate" in text)
    assert numbers in warning
    assert f"{line['a']:.4g}" in warning


def test_threshold_that_exceeds_the_budget_is_used_with_a_warning(folder, tmp_path):
    point = at(with_line(folder, tmp_path, a=0.5, b=-0.3, risk_averse=0.6), policy=Policy.RISK_AVERSE, max_bias=0.001)
    assert point.u_threshold == 0.6
    assert point.binding == "policy"
    assert any("exceeds the budget" in line for line in point.warnings)


def test_threshold_between_the_limit_and_one_rests_on_the_recorded_draft_and_says_so(folder, tmp_path):
    calibration = with_line(folder, tmp_path, a=0.5, b=-0.3, risk_averse=0.9)
    point = at(calibration, policy=Policy.RISK_AVERSE, mode=Mode.U_HLM)
    assert any("one recorded draft" in line for line in point.warnings)
    assert row(point, Mode.QUERY).bias is None
    assert row(point, Mode.COARSE).payload_bits is None


def test_surrogate_that_exceeds_the_budget_is_used_with_a_warning(folder):
    point = at(folder, distortion="surrogate", max_bias=0.01)
    assert point.theta == 0.1
    assert point.bias_total > 0.01
    assert any("exceeds the budget" in line for line in point.warnings)


def test_given_tolerance_above_the_budget_is_infeasible_and_says_what_to_relax(folder):
    with pytest.raises(InfeasibleError, match=r"--theta 0\.4 .* above --max-bias 0\.02; lower --theta"):
        at(folder, theta=0.4, max_bias=0.02)
    assert at(folder, theta=0.01, max_bias=0.02).theta == 0.01


def test_numeric_floor_at_the_budget_is_warned_of(tmp_path):
    write_synthetic(tmp_path, TABLE, METADATA, numeric_floor=Floor(slm=0.016, llm=0.021, compared="synthetic"))
    point = at(tmp_path, max_bias=0.02)
    assert point.numeric_floor == 0.021
    assert any("numeric floor 0.0210" in line for line in point.warnings)
    assert not any("numeric floor" in line for line in at(tmp_path, max_bias=0.03).warnings)


def test_given_times_replace_the_measured_ones_and_are_shown(folder):
    point = at(folder, slm_s=0.01, gate_s=0.0, llm_s=0.08)
    assert point.times.llm_pass_s == {n: pytest.approx(2 * seconds) for n, seconds in TIMES.llm_pass_s.items()}
    assert row(point, Mode.SLM).latency_s == 0.01
    assert any("given: SLM step, gate, LLM pass" in line for line in point.assumptions)


def test_records_without_times_give_bias_but_no_throughput(tmp_path):
    write_synthetic(tmp_path, TABLE, METADATA, times=None, numeric_floor=FLOOR)
    point = at(tmp_path)
    assert point.status == "incomplete"
    assert point.bias_total <= 0.05
    assert point.throughput_tokens_per_s is None
    assert any("no compute times" in line for line in point.warnings)


def test_every_default_is_an_assumption(folder):
    text = " ".join(at(folder).assumptions)
    link = ("Shannon", "round trip 0 s", "downlink 0 s", "ids ride free", "128 tokens")
    for part in (
        *link,
        "bits a probability",
        "all of x without ids",
        "records' grid",
        "temperature 1",
        "LLM alone",
        "position by position",
        "1 / E[latency",
        "SLM step 20 ms",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_bias": 1.5}, "--max-bias 1.5"),
        ({"max_bias": -0.1}, "--max-bias -0.1"),
        ({"max_bias": float("nan")}, "--max-bias nan"),
        ({"bandwidth_hz": 0.0}, "--bandwidth 0.0"),
        ({"bandwidth_hz": float("nan")}, "--bandwidth nan"),
        ({"snr_db": float("nan")}, "--snr nan"),
        ({"snr_db": 1e6}, "--snr 1000000.0"),
        ({"rtt_s": -1.0}, "--rtt -1.0"),
        ({"theta": -0.1}, "--theta -0.1"),
        ({"theta": float("nan")}, "--theta nan"),
        ({"b_prob": 0}, "--b-prob 0"),
        ({"answer_tokens": 0}, "--answer-tokens 0"),
        ({"slm_s": 0.0}, "--slm-time 0.0"),
        ({"llm_s": float("inf")}, "--llm-time inf"),
        ({"gate_s": -1.0}, "--gate-time -1.0"),
        ({"policy": "budgett"}, "did you mean budget"),
        ({"mode": "cu-hlm-ofline"}, "did you mean cu-hlm-offline"),
        ({"signal": "u_ba"}, "did you mean u_bar"),
        ({"distortion": "bounds"}, "did you mean bound"),
        ({"law_format": "sparse"}, "--format 'sparse'"),
        ({"accounting": "mean"}, "mean-"),
        ({"domain": "cod"}, "did you mean code"),
        ({"mode": Mode.COARSE, "signal": "u_mc"}, "--signal 'u_mc' is not allowed in mode 'coarse'; use u_bar"),
    ],
)
def test_bad_input_is_named_with_its_value(folder, settings, message):
    with pytest.raises(InputError) as caught:
        at(folder, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_calibration_names_near_misses(tmp_path):
    with pytest.raises(InputError, match="--calibration 'published-cuhlm' is unknown; did you mean published-cu-hlm"):
        solve("published-cuhlm", bandwidth_hz=10e6)
    with pytest.raises(InputError, match="no such file"):
        solve(str(tmp_path), bandwidth_hz=10e6)


def copied(folder, tmp_path, name, change) -> str:
    for file in ("records.parquet", "calibration.json"):
        content = (folder / file).read_bytes()
        (tmp_path / file).write_bytes(change(content) if file == name else content)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("calibration.json", lambda content: content[: len(content) // 2], "not readable as JSON"),
        (
            "calibration.json",
            lambda content: content.replace(b'"schema_version": 1', b'"schema_version": 2'),
            "version 2",
        ),
        ("records.parquet", lambda content: content[: len(content) // 2], "not the file that calibration 'synthetic'"),
    ],
)
def test_broken_files_are_refused(folder, tmp_path, name, change, message):
    with pytest.raises(InputError, match=message):
        at(copied(folder, tmp_path, name, change))


def test_missing_records_are_refused(folder, tmp_path):
    (tmp_path / "calibration.json").write_bytes((folder / "calibration.json").read_bytes())
    with pytest.raises(InputError, match=r"records\.parquet: no such file"):
        at(tmp_path)
    assert Calibration.read(tmp_path / "calibration.json").id == "synthetic"
