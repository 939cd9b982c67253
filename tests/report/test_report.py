"""The report as its readers have it: opened from a file in a browser, by keyboard, at two widths; and as bytes."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt.cli.main import main
from cuhlm_opt.report.explorer import Axes, explore

ARTEFACTS = Path(__file__).parent / "artefacts"
"""Screenshots are kept here."""
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
LINK = ["--domain", "code", "--rtt", "20ms"]
EXPLORED = ["--bandwidths", "100kHz,1MHz,20MHz", "--snrs", "0dB,20dB", "--budgets", "0.01,0.05"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """The report of the shipped calibration; 10 MHz, 10 dB and 0.02 join the axes."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", *LINK, *EXPLORED, "--workers", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, as apt.txt installs it."""
    path = shutil.which("chromium")
    assert path, "Chromium is missing; apt.txt names the package"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, page_file):
    """Open the page at a width; console messages, errors and requests are noted and must not come."""
    pages, noted = [], []

    def open_at(width: str):
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        page = browser.new_page(viewport=size)
        page.on("console", lambda message: noted.append(message.text))
        page.on("pageerror", lambda error: noted.append(str(error)))
        page.on("request", lambda request: noted.append(request.url) if not _own(request.url, page_file) else None)
        page.goto(page_file.as_uri())
        pages.append(page)
        return page

    yield open_at
    assert noted == []
    for page in pages:
        page.close()


def _own(url: str, page_file: Path) -> bool:
    return url == page_file.as_uri() or url.startswith("data:")


@pytest.mark.parametrize("width", WIDTHS)
def test_readable_without_scrolling_sideways(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('main p, main dd, main td, figcaption')]"
        ".map((each) => parseFloat(getComputedStyle(each).fontSize)))"
    )
    assert smallest >= 13
    images = page.locator("figure img")
    assert images.count() >= 12
    assert images.evaluate_all("all => all.every((each) => each.naturalWidth > 0 && each.alt !== '')")
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"report-{width}.png", full_page=True)


@pytest.mark.parametrize(
    ("keys", "link", "budget"),
    [
        ({}, ["--bandwidth", "10MHz", "--snr", "10dB"], "0.02"),
        ({"bandwidth_hz": ["Home"], "snr_db": ["ArrowLeft"]}, ["--bandwidth", "100kHz", "--snr", "0dB"], "0.02"),
        ({"bandwidth_hz": ["ArrowRight"], "snr_db": ["End"], "max_bias": ["End"]},
         ["--bandwidth", "20MHz", "--snr", "20dB"], "0.05"),
    ],
)  # fmt: skip
def test_explorer_shows_what_solve_states(opened, capsys, keys, link, budget):
    page = opened("desktop")
    for axis, pressed in keys.items():
        page.locator(f"#{axis}").focus()
        for key in pressed:
            page.keyboard.press(key)
    capsys.readouterr()
    assert main(["solve", *LINK, *link, "--max-bias", budget, "--json"]) == 0
    point = json.loads(capsys.readouterr().out)
    stated = {row["mode"]: row["throughput_tokens_per_s"] for row in point["baselines"] if row["mode"] != "random"}
    rows = page.locator("#explored tbody tr")
    shown = rows.evaluate_all(
        "all => Object.fromEntries(all.map((row) => "
        "[row.dataset.mode, Number(row.querySelector('[data-throughput]').dataset.throughput)]))"
    )
    assert shown == pytest.approx(stated, rel=1e-12)
    best = point["recommended"]["mode"]
    assert page.locator("#explored tr.chosen").get_attribute("data-mode") == best
    assert page.locator("#advice").inner_text().startswith(f"Run {best}: ")


def test_every_control_is_reached_by_the_keyboard(opened):
    page = opened("phone")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
    assert {"bandwidth_hz", "snr_db", "max_bias", "#explorer", "#provenance"} <= reached
    assert page.locator("#bandwidth_hz").get_attribute("aria-valuetext") == "10 MHz"


def test_says_what_it_rests_on(page_file):
    text = page_file.read_text()
    command = "cuhlm-opt report --out .*report.html --rtt 20ms --domain code --bandwidths 100kHz,1MHz,20MHz"
    assert re.search(command, text)
    assert "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046" in text  # the LLM's file
    assert "uplink: AWGN at the Shannon rate" in text
    assert re.findall(r"""<[^>]+(?:src|href)="(?!data:|#)[^>]*>""", text) == []


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> str:
    """A small calibration of made-up records."""
    folder = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(prompts=24)
    write_synthetic(folder, table, metadata)
    return str(folder)


def test_same_bytes_again_and_figures_that_are_missing_are_named(synthetic, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = []
    for _ in range(2):
        command = ["report", "--calibration", synthetic, "--domain", "code", *EXPLORED, "--out", "page.html", "--json"]
        assert main([*command, "--workers", "1"]) == 0
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1]
    found = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "\n}")
    assert {"thresholds", "distortion"} <= set(found["figures"])
    assert "figures-data pareto" in found["not_drawn"]["pareto"]
    assert "figures-data pareto" in pages[0].decode()


def test_grid_of_a_trace_has_budgets_alone(synthetic, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("0,1e6\n1,2e6\n2,1e6\n")
    axes = Axes(bandwidth_hz=(None,), snr_db=(10.0,), max_bias=(0.02, 0.1))
    grid = explore(synthetic, {"channel": "trace", "trace": str(trace), "domain": "code"}, axes, workers=1)
    assert grid["axes"] == {"bandwidth_hz": [None], "snr_db": [10.0], "max_bias": [0.02, 0.1]}
    assert len(grid["columns"]["bias"]) == 2 * len(grid["modes"])
    assert len(grid["recommended"]) == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--out", "report.pdf"], ["--out", "report.pdf", ".html"]),
        (["--out", "r.html", "--bandwidths", "5"], ["--bandwidths", "'5'", "10MHz"]),
        (["--out", "r.html", "--snrs", "3dB:1dB:1dB"], ["--snrs", "empty"]),
        (["--out", "r.html", "--budgets", "2"], ["--budgets", "2.0", "between 0 and 1"]),
        (["--out", "r.html", "--bandwidths", "1MHz:2MHz:lin:999"], ["44,955 points", "5,000"]),
        (["--out", "r.html", "--mode", "cu"], ["--mode", "'cu'"]),
        (["--out", "r.html", "--calibration", "none"], ["none"]),
        (["--out", "r.html", "--channel", "trace", "--trace", "t.csv", "--snrs", "1dB"], ["--snrs", "trace"]),
    ],
)
def test_refused(refused, arguments, parts):
    refused(["report", *arguments], parts)
