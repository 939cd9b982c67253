"""`cuhlm-opt cell`: from a file to shares; what is wrong in one line."""

import json

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.allocation import Fairness
from cuhlm_opt.cell import Points, read_cell, solve_cell
from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InfeasibleError
from cuhlm_opt.solve import solve

TOP = 'bandwidth = "40kHz"\ncalibration = "records"\ndomain = "code"\npolicy = "budget"\nmax_bias = 0.05\n'
THREE = """
[[device]]
name = "near"
snr = "20dB"
count = 2

[[device]]
name = "far"
snr = "-3dB"
mode = "u-hlm"
weight = 2.0

[[device]]
name = "small"
snr = "5dB"
mode = "coarse"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=3, vocab_size=120, prompts=40, length=8)
    (path / "records").mkdir()
    write_synthetic(path / "records", table, metadata, times=TIMES, numeric_floor=FLOOR)
    return path


@pytest.fixture
def cell(folder):
    def write(text: str):
        path = folder / "cell.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("objective", list(Fairness))
def test_every_objective_gains_over_equal_shares(cell, objective, capsys):
    path = cell(f'objective = "{objective}"\n{TOP}{THREE}')
    assert main(["cell", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optimality_residual"] < 1e-5
    assert [device["name"] for device in found["devices"]] == ["near-1", "near-2", "far", "small"]
    assert sum(device["share_hz"] for device in found["devices"]) == pytest.approx(40e3)
    assert found["splits"]["optimal"]["objective"] < found["splits"]["equal"]["objective"]
    assert found["splits"]["optimal"]["objective"] <= found["splits"]["proportional_to_load"]["objective"] * 1.001
    for device in found["devices"]:
        assert device["bias"] <= device["bias_budget"]
        assert device["throughput_tokens_per_s"] == pytest.approx(1 / device["latency_s"])


def test_latency_is_what_solve_states_for_the_share(folder, cell):
    """At the share and its SNR `solve` finds the same point, or with a rate step's difference a near one."""
    read = read_cell(cell(TOP + THREE))
    found = solve_cell(read).best
    for device, share, latency_s in zip(read.devices, found.shares_hz, found.latency_s, strict=True):
        snr_db = 10 * np.log10(device.snr * read.bandwidth_hz / share)
        alone = solve(
            str(folder / "records"), domain="code", policy="budget", max_bias=0.05, mode=device.options["mode"],
            bandwidth_hz=float(share), snr_db=float(snr_db),
        )  # fmt: skip
        assert latency_s == pytest.approx(alone.latency_s, rel=0.01)


def test_a_device_that_sends_nothing_gets_nothing(cell):
    found = solve_cell(read_cell(cell(TOP + THREE + '[[device]]\nname = "alone"\nsnr = "0dB"\nmode = "slm"\n'))).best
    assert found.shares_hz[-1] == 0
    assert found.latency_s[-1] == pytest.approx(TIMES.slm_s)


def test_limits_hold_and_cost_the_others(cell):
    free = solve_cell(read_cell(cell(TOP + THREE))).best
    floor_s = free.demands.base_s[2] + free.demands.bits[2] * np.log(2) / free.demands.capacity_hz[2]
    limit_ms = 1e3 * (floor_s + 0.8 * (free.latency_s[2] - floor_s))
    text = TOP + THREE.replace("weight", f'max_latency = "{limit_ms:.6f}ms"\nweight')
    limited = solve_cell(read_cell(cell(text))).best
    assert limited.latency_s[2] <= limit_ms / 1e3 * (1 + 1e-6)
    assert limited.shares_hz[2] > free.shares_hz[2]
    assert limited.latency_s[0] > free.latency_s[0]


def test_a_limit_is_judged_at_the_point_that_needs_least(cell):
    """Against the points of every rate; those at equal shares would need more, and make limits look impossible."""
    far = '[[device]]\nname = "far"\nsnr = "20dB"\nmax_latency = "{}ms"\n'
    wasted = []
    for limit_ms in (40, 45, 60, 100, 300):
        read = read_cell(cell(TOP + far.format(limit_ms)))
        points = Points(read)
        equal = points.split(np.array([40e3]))
        least = points.leanest(equal).demands.least_hz[0]
        every = [points.split(np.array([share])).demands.least_hz[0] for share in np.geomspace(1e-2, 40e3, 160)]
        assert least <= min(every) * 1.11  # a step of the rates
        wasted.append(equal.demands.least_hz[0] / least)
    assert max(wasted) > 1.5


def test_infeasible_limits_name_devices_and_bandwidth(cell):
    hopeless = TOP + THREE.replace("weight", 'max_latency = "21ms"\nweight')
    with pytest.raises(InfeasibleError, match="not reached at any bandwidth by far: compute"):
        solve_cell(read_cell(cell(hopeless)))
    free = solve_cell(read_cell(cell(TOP + THREE))).best
    floor_s = free.demands.base_s[2] + free.demands.bits[2] * np.log(2) / free.demands.capacity_hz[2]
    tight = TOP + THREE.replace("weight", f'max_latency = "{1e3 * (1.001 * floor_s):.6f}ms"\nweight')
    with pytest.raises(InfeasibleError, match=r"max_latency needs [\d.]+ [kMG]Hz .* most is needed by far"):
        solve_cell(read_cell(cell(tight)))
    assert main(["cell", str(cell(tight))]) == 3


def test_the_same_file_gives_the_same_bytes(cell, folder):
    path = cell(TOP + THREE)
    for name in ("a.json", "b.json"):
        assert main(["cell", str(path), "--out", str(folder / name)]) == 0
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOP, "device: Field required"),
        (TOP + "device = []\n", "device: List should have at least 1 item"),
        (THREE, "bandwidth: Field required"),
        ("bandwidth = \n", "is no TOML"),
        (TOP.replace("40kHz", "-40kHz") + THREE, "bandwidth '-40kHz'"),
        (TOP + "colour = 1\n" + THREE, "key 'colour' is unknown; known: answer_tokens, bandwidth"),
        (TOP + THREE.replace("weight", "wieght"), "key 'device.2.wieght' is unknown; known: answer_tokens"),
        (TOP + THREE.replace('"small"', '"far"'), "device names must differ; repeated: far"),
        (TOP + THREE.replace("weight = 2.0", "weight = 0"), "device 'far': weight 0 is not allowed"),
        (TOP + THREE.replace("weight = 2.0", "weight = -1.5"), "device 'far': weight -1.5 is not allowed"),
        (TOP + THREE.replace("weight = 2.0", "weight = nan"), "device 'far': weight nan is not allowed"),
        (TOP + THREE.replace('"-3dB"', '"-3"'), "device 'far': snr '-3'"),
        (TOP + THREE.replace('"-3dB"', "-3"), "device.2.snr: Input should be a valid string"),
        (TOP + THREE.replace('"coarse"', '"fine"'), "device 'small': --mode 'fine' is unknown"),
        (TOP + THREE.replace("count = 2", "count = 0"), "device.1.count"),
        (TOP.replace('"records"', '"nowhere"') + THREE, "device 'near-1': --calibration 'nowhere' is unknown"),
        (TOP.replace('"code"', '"poetry"') + THREE, "device 'near-1': --domain 'poetry' is unknown"),
        ('objective = "best"\n' + TOP + THREE, "objective"),
        (TOP + THREE.replace("weight", 'max_latency = "soon"\nweight'), "device 'far': max_latency 'soon'"),
    ],
)
def test_bad_files_in_one_line(cell, capsys, text, message):
    assert main(["cell", str(cell(text))]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_missing_file_is_named(capsys, tmp_path):
    assert main(["cell", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_a_calibration_without_times_cannot_share(cell, capsys):
    text = 'bandwidth = "1MHz"\ncalibration = "published-cu-hlm"\npolicy = "risk-averse"\n'
    assert main(["cell", str(cell(text + '[[device]]\nname = "a"\nsnr = "0dB"\n'))]) == 2
    assert "the latency of cu-hlm-offline is not known" in capsys.readouterr().err
