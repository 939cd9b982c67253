"""Figures and tables as files: sizes, fonts, captions, the same bytes on a second run, and what is refused."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.figures.inputs import Inputs
from cuhlm_opt.figures.making import Width, check, make, read_manifest, stale
from cuhlm_opt.figures.scripts import Kind, Script, choose, find_scripts
from cuhlm_opt.resources import figures_dir

ROOT = Path(__file__).resolve().parents[2]
PAIR = "qwen2.5-coder"
FIGURES = sorted(path.stem.removeprefix("fig_").replace("_", "-") for path in figures_dir().glob("fig_*.py"))
TABLES = sorted("table-" + path.stem.removeprefix("table_") for path in figures_dir().glob("table_*.py"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Everything at column width, as the command draws it."""
    out = tmp_path_factory.mktemp("figures")
    assert main(["figures", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def drawn_again(tmp_path_factory) -> Path:
    """The same by another process with another order of sets, in the formats whose bytes tell most."""
    out = tmp_path_factory.mktemp("again")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cuhlm_opt", "figures", "--out", str(out), "--format", "pdf,svg"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return out


@pytest.fixture
def few(tmp_path) -> Path:
    """A folder of scripts with one figure, its style, and one input."""
    folder = tmp_path / "scripts"
    (folder / "measured").mkdir(parents=True)
    shutil.copy(figures_dir() / "style.py", folder)
    (folder / "measured/heights.json").write_text('{"heights": [1, 2, 3]}')
    (folder / "fig_one.py").write_text(
        '"""One line."""\n'
        "import style\n"
        'READS = ("measured/heights", "calibration")\n'
        "def draw(inputs, width):\n"
        "    figure, axes = style.panels(width, 1, 1, 1.5)\n"
        '    axes[0, 0].plot(inputs.measured("heights")["heights"])\n'
        '    return figure, "Heights (m); no intervals."\n'
    )
    return folder


def inputs_of(folder: Path, out: Path) -> Inputs:
    return Inputs(PAIR, folder, out)


def test_the_second_run_gives_the_same_bytes(drawn, drawn_again):
    names = sorted(path.name for path in drawn_again.iterdir())
    assert len(names) == 3 * len(FIGURES) + 3 * len(TABLES) + 1
    assert [name for name in names if (drawn / name).read_bytes() != (drawn_again / name).read_bytes()] == []


def test_committed_captions_and_tables_are_those_of_today(drawn):
    """Their numbers come through the whole package, which the hashes of the manifest leave out."""
    texts = [path for path in (ROOT / "figures/out").iterdir() if path.suffix in (".txt", ".md", ".tex")]
    assert len(texts) == len(FIGURES) + 3 * len(TABLES)
    assert [path.name for path in texts if path.read_text() != (drawn / path.name).read_text()] == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_column_wide_with_embedded_fonts_and_a_caption(drawn, name):
    pdf = (drawn / f"{name}.pdf").read_bytes()
    left, _, right, top = map(float, re.search(rb"/MediaBox \[([\d. ]+)\]", pdf)[1].split())
    assert right - left == pytest.approx(72 * 3.5, abs=0.05)
    assert top <= 72 * 6
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf
    width, _ = struct.unpack(">II", (drawn / f"{name}.png").read_bytes()[16:24])
    assert width == 3.5 * 300
    svg = (drawn / f"{name}.svg").read_text()
    assert 'width="252pt"' in svg
    assert "<text" not in svg  # type is drawn as outlines: no font is looked for
    assert all(b"CreationDate" not in content for content in (pdf, svg.encode()))


@pytest.mark.parametrize("name", FIGURES + TABLES)
def test_a_caption_says_what_the_data_are_what_the_units_and_what_intervals_are_drawn(drawn, name):
    caption = (drawn / f"{name}.txt").read_text()
    assert re.search(r"interval", caption)
    assert PAIR in caption
    if name in FIGURES:
        assert re.search(r"positions of \d+ prompts|Data: the size", caption)
        assert re.search(r"\((ms|%|tokens per second|total variation per token)\)|without unit|Bits of", caption)
    assert not re.search(r"[{}\\]|nan|None", caption)


def test_a_page_wide_figure_is_as_wide(tmp_path):
    assert main(["figures", "payload", "--out", str(tmp_path), "--width", "page", "--format", "pdf"]) == 0
    box = re.search(rb"/MediaBox \[([\d. ]+)\]", (tmp_path / "payload.pdf").read_bytes())[1].split()
    assert float(box[2]) == pytest.approx(72 * 7.16, abs=0.05)


def test_every_script_is_listed_without_drawing(capfd):
    assert main(["figures", "--list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)["figures"]
    assert [each["name"] for each in listed] == FIGURES + TABLES
    assert all(each["summary"].endswith(".") and each["reads"] for each in listed)
    assert main(["figures", "--list"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(FIGURES + TABLES)


def test_the_manifest_of_the_checkout_is_that_of_its_inputs():
    inputs = inputs_of(figures_dir(), ROOT / "figures/out")
    check(choose(find_scripts(figures_dir()), ()), inputs)
    assert set(read_manifest(inputs.out)) == set(FIGURES + TABLES)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("measured/heights.json", "one: measured/heights changed"),
        ("style.py", "one: style.py changed"),
        ("fig_one.py", "one: fig_one.py changed"),
    ],
)
def test_a_stale_figure_is_found_when_an_input_changes(few, tmp_path, changed, reason):
    scripts, inputs = list(find_scripts(few).values()), inputs_of(few, tmp_path / "out")
    assert stale(scripts, inputs) == {"one": "not made yet"}
    make(scripts, inputs, formats=["svg"])
    check(scripts, inputs)
    path = few / changed
    path.write_text(path.read_text().replace("2", "4") + "\n")
    with pytest.raises(RunError, match=rf"stale: {reason}.*cuhlm-opt figures one --out") as raised:
        check(list(find_scripts(few).values()), inputs_of(few, tmp_path / "out"))
    assert raised.value.exit_code == 1


def test_a_new_figure_is_one_new_file(few, tmp_path):
    (few / "fig_two_more.py").write_text((few / "fig_one.py").read_text())
    assert list(find_scripts(few)) == ["one", "two-more"]
    make(choose(find_scripts(few), ["two-more"]), inputs_of(few, tmp_path / "out"), formats=["png"], width=Width.PAGE)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "two-more.png", "two-more.txt"]


def test_what_a_script_reads_must_be_declared(few, tmp_path):
    path = few / "fig_one.py"
    path.write_text(path.read_text().replace('"measured/heights", ', ""))
    with pytest.raises(RunError, match="READS of the script lacks 'measured/heights'"):
        make(list(find_scripts(few).values()), inputs_of(few, tmp_path / "out"))
    path.write_text('"""No inputs."""\n')
    with pytest.raises(RunError, match=r"fig_one\.py: .*READS"):
        Script.of(path)


def test_an_input_with_a_question_mark_may_be_missing(few, tmp_path):
    path = few / "fig_one.py"
    text = path.read_text().replace('measured/heights"', 'measured/heights?"')
    path.write_text(
        text.replace('inputs.measured("heights")["heights"]', 'list(inputs.measured_if_any("heights") or ())')
    )
    scripts, inputs = list(find_scripts(few).values()), inputs_of(few, tmp_path / "out")
    heights = few / "measured/heights.json"
    content = heights.read_text()
    heights.unlink()
    make(scripts, inputs, formats=["svg"])
    check(scripts, inputs)
    heights.write_text(content)
    assert stale(scripts, inputs) == {"one": "measured/heights? changed"}


def test_a_script_that_fails_is_one_line(few, tmp_path):
    (few / "fig_one.py").write_text(
        '"""Fails."""\nREADS = ("calibration",)\ndef draw(inputs, width):\n    return 1 / 0\n'
    )
    with pytest.raises(RunError, match=r"fig_one\.py: ZeroDivisionError"):
        make(list(find_scripts(few).values()), inputs_of(few, tmp_path / "out"))


def test_missing_and_foreign_inputs_name_the_command_that_makes_them(tmp_path):
    folder, out = tmp_path / "scripts", tmp_path / "out"
    shutil.copytree(figures_dir(), folder, ignore=shutil.ignore_patterns("out", "__pycache__"))
    (folder / "data/snr.parquet").unlink()
    (folder / "measured/coverage.json").unlink()
    foreign = (folder / "measured/adaptive.json").read_text().replace('"records_sha256": "', '"records_sha256": "0')
    (folder / "measured/adaptive.json").write_text(foreign)
    script = folder / "data_pareto.py"
    script.write_text(script.read_text() + "\n")
    inputs = inputs_of(folder, out)
    for name, message in (
        ("data/snr", rf"data/snr\.parquet is missing; make it with: cuhlm-opt figures-data snr --out {out}"),
        ("measured/coverage", r"measured/coverage\.json is missing.*measure_coverage\.py --calibration .* --out"),
        ("measured/adaptive", r"measured/adaptive\.json was measured on other records.*measure_adaptive\.py"),
        ("data/pareto", r"another version of data_pareto\.py.*figures-data pareto"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            inputs.sha256(name)
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(InputError, match="figures-data snr"):
        make(choose(find_scripts(folder), ["payload", "snr"]), inputs)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["figures", "sn", "--out", "o"], ["'sn'", "did you mean snr"]),
        (["figures", "snr"], ["--out is missing"]),
        (["figures", "snr", "--out", "o", "--format", "pdf,gif"], ["--format 'gif'", "pdf"]),
        (["figures", "snr", "--out", "o", "--width", "wide"], ["--width 'wide'", "column"]),
        (["figures", "snr", "--out", "o", "--calibration", "qwen"], ["--calibration 'qwen'", PAIR]),
        (["figures", "correlation", "--out", "o", "--calibration", "published-cu-hlm"], ["no records", "calibrate"]),
        (["figures-data", "sn", "--out", "o"], ["'sn'", "did you mean snr"]),
        (["figures-data"], ["--out is missing"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(refused, arguments, parts):
    refused(arguments, parts)


def test_check_says_what_is_stale_with_exit_code_1(capfd, tmp_path):
    assert main(["figures", "payload", "snr", "--out", str(tmp_path), "--check"]) == 1
    err = capfd.readouterr().err
    assert f"cuhlm-opt figures payload snr --out {tmp_path}" in err
    assert len(err.splitlines()) == 1
    assert main(["figures", "payload", "--out", str(tmp_path), "--format", "svg", "--json"]) == 0
    (made,) = json.loads(capfd.readouterr().out)["figures"]
    assert made["name"] == "payload"
    assert made["caption"]
    assert sorted(Path(path).suffix for path in made["files"]) == [".svg", ".txt"]
    assert main(["figures", "payload", "--out", str(tmp_path), "--check"]) == 0


def test_every_kind_of_script_has_a_prefix_of_its_own():
    names = {path.name for path in figures_dir().glob("*.py")} - {"style.py", "readme_tables.py"}
    assert all(name.startswith(tuple(f"{kind}_" for kind in Kind)) for name in names)
