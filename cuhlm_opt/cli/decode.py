"""`cuhlm-opt decode`."""

import json as json_format
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.remote.access import read_secret, read_token
from cuhlm_opt.units import format_si, parse_wait_s

if TYPE_CHECKING:
    from cuhlm_opt.artefacts import OperatingPoint
    from cuhlm_opt.decode.result import DecodeResult
    from cuhlm_opt.models.pairs import Loading

_BESIDE = {"bias_skip": "bias_budget", "risk_expected": "bias_budget"}
"""Measured figures that stand beside another key of the point than their own."""


def decode(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads stdin.")],
    pair: Annotated[str | None, typer.Option(help="Name of a model pair; see `pairs list`.")] = None,
    mode: Annotated[str | None, typer.Option(help="Decoding mode, instead of the operating point's.")] = None,
    operating_point: Annotated[
        Path | None, typer.Option(help="Operating point from `solve`; without it the pair's default, solved at 10 MHz.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all draws, at least 0.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Length limit of the answer, at least 1.")] = 128,
    slm: Annotated[str | None, typer.Option(help="SLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    llm: Annotated[str | None, typer.Option(help="LLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    backend: Annotated[str | None, typer.Option(help="llama.cpp or transformers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (transformers).")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where it is faster (transformers).")
    ] = "float32",
    context_length: Annotated[int, typer.Option(help="Tokens of prompt and answer, at least 8.")] = 2048,
    verifier: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask this server (`serve`), instead of an LLM here.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; trust the system's root certificates.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Encrypt; trust this certificate, PEM.")] = None,
    token: Annotated[Path | None, typer.Option(help="File with the bearer token to show.")] = None,
    deadline: Annotated[str, typer.Option(help="Longest wait for one reply.")] = "60s",
    offline_after: Annotated[
        str, typer.Option(help="Go on with the SLM alone once the server has not answered for so long.")
    ] = "30s",
    feedback: Annotated[
        bool, typer.Option("--feedback", help="Send the probabilities of skipped tokens along, to learn their risk.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Answer a prompt at an operating point; text on stdout, what it really cost on stderr."""
    from cuhlm_opt.artefacts import OperatingPoint
    from cuhlm_opt.decode.default_point import default_operating_point, with_mode
    from cuhlm_opt.modes import Mode

    for option, value, least in (
        ("--seed", seed, 0),
        ("--max-tokens", max_tokens, 1),
        ("--context-length", context_length, 8),
    ):
        if value < least:
            raise InputError(f"{option} {value} is not allowed; give an integer of at least {least}")
    if mode is not None and mode not in list(Mode):
        raise unknown_name("--mode", mode, list(Mode))
    chosen = None if mode is None else Mode(mode)
    text = _read_prompt(prompt)
    point = None if operating_point is None else OperatingPoint.read(operating_point)
    if point is not None and chosen is not None:
        point = with_mode(point, chosen)
    loading: Loading = {"backend": backend, "device": device, "dtype": dtype, "context_length": context_length}

    def settled(name: str) -> OperatingPoint:
        return point or default_operating_point(name, chosen)

    remote_only = {"--tls": tls, "--tls-ca": tls_ca, "--token": token, "--feedback": feedback}
    if verifier is None and (without := [option for option, value in remote_only.items() if value]):
        raise InputError(f"{without[0]} is of use with --verifier only")
    asked = _Asked(text=text, seed=seed, max_tokens=max_tokens, on_text=None if json else _stream)
    if verifier is None:
        result = _decode_here(pair, slm, llm, loading, settled, asked)
    elif llm is not None:
        raise InputError(f"--llm {llm!r} cannot be combined with --verifier; the server has the LLM")
    else:
        link = _Link(
            address=verifier,
            tls=read_secret(tls_ca, "--tls-ca") if tls_ca is not None else b"" if tls else None,
            token=None if token is None else read_token(token),
            deadline_s=parse_wait_s(deadline, "--deadline"),
            offline_after_s=parse_wait_s(offline_after, "--offline-after"),
            feedback=feedback,
        )
        result = _decode_remotely(pair, slm, link, loading, settled, asked)
    if json:
        print(json_format.dumps(result.to_json()))
        return
    print(flush=True)
    _show(result, result.point)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What to answer, and how far."""

    text: str
    seed: int
    max_tokens: int
    on_text: Callable[[str], None] | None


@dataclass(frozen=True, kw_only=True)
class _Link:
    """The server to ask, and how long to wait for it."""

    address: str
    tls: bytes | None
    token: str | None
    deadline_s: float
    offline_after_s: float
    feedback: bool


def _decode_here(
    pair: str | None, slm: str | None, llm: str | None, loading: "Loading",
    settled: "Callable[[str], OperatingPoint]", asked: _Asked,
) -> "DecodeResult":  # fmt: skip
    """Both models in this process."""
    from cuhlm_opt.decode.loop import decode as run
    from cuhlm_opt.models.pairs import load_pair

    models = load_pair(pair, slm=slm, llm=llm, **loading)
    try:
        return run(
            models,
            settled(models.name),
            asked.text,
            seed=asked.seed,
            max_tokens=asked.max_tokens,
            on_text=asked.on_text,
        )
    finally:
        models.close()


def _decode_remotely(
    pair: str | None, slm: str | None, link: _Link, loading: "Loading",
    settled: "Callable[[str], OperatingPoint]", asked: _Asked,
) -> "DecodeResult":  # fmt: skip
    """The SLM in this process, the LLM at the other end of a link."""
    from cuhlm_opt.cli.progress import note
    from cuhlm_opt.models.pairs import load_model
    from cuhlm_opt.remote.client import decode_remotely
    from cuhlm_opt.remote.connection import Connection, Patience

    name, model = load_model("slm", pair, source=slm, **loading)
    try:
        patience = Patience(deadline_s=link.deadline_s, offline_after_s=link.offline_after_s)
        connection = Connection(link.address, model, tls=link.tls, token=link.token, patience=patience)
        try:
            return decode_remotely(
                connection,
                settled(name),
                asked.text,
                pair=name,
                seed=asked.seed,
                max_tokens=asked.max_tokens,
                feedback=link.feedback,
                on_text=asked.on_text,
                notify=note,
            )
        finally:
            connection.close()
    finally:
        model.close()


def _read_prompt(prompt: str) -> str:
    """The prompt, or stdin for `-`; refused when empty or not UTF-8."""
    try:
        text = sys.stdin.buffer.read().decode() if prompt == "-" else prompt
        text.encode()  # an argument that is not UTF-8 arrives with surrogates
    except UnicodeError:
        raise InputError("PROMPT is not UTF-8 text") from None
    if not text.strip():
        raise InputError("PROMPT is empty; give some text")
    return text


def _stream(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _show(result: "DecodeResult", point: "OperatingPoint") -> None:
    """Measured figures beside those of the operating point, on stderr."""
    figures = result.to_json()
    timing = figures["timing"]
    console = Console(stderr=True, highlight=False)
    table = Table(
        title=f"{figures['mode']}, {figures['n_tokens']} tokens, {figures['finish_reason']}", title_justify="left"
    )
    for title in ("", "measured", "operating point"):
        table.add_column(title, justify="left" if not title else "right")
    solved = _solved(point)
    rounds = (("tokens per round", "tokens_per_round", ""),) if point.drafting is not None else ()
    wire = figures["wire"] or {}
    crossed = (
        ("bytes sent per token", "sent_per_token", ""),
        ("of them not the codec's", "overhead_share", ""),
        ("reconnects", "reconnects", ""),
        ("link per token", "link_s_per_token", "s"),
    )
    n, sent = figures["n_tokens"], wire.get("sent_bytes", 0)
    shares = {
        "sent_per_token": sent / n,
        "overhead_share": 1 - wire.get("codec_bytes", 0) / sent if sent else None,
        "link_s_per_token": figures["link_total_s"] / n,
    }
    for label, key, unit in (
        *rounds,
        *(crossed if wire else ()),
        ("skip rate", "skip_rate", ""),
        ("bits per upload", "payload_bits", ""),
        ("rejection rate", "rejection_rate", ""),
        ("LLM passes per token", "server_passes_per_token", ""),
        ("uplink per upload", "uplink_s", "s"),
        ("latency per token", "latency_s", "s"),
        ("tokens per second", "throughput_tokens_per_s", ""),
        ("risk of the skips (budget)", "bias_skip", ""),
        ("expected risk (budget)", "risk_expected", ""),
        ("truncation, at most", "bias_truncation", ""),
        ("rounding, at most", "bias_quantisation", ""),
    ):
        measured = {**figures, **timing, **wire, **shares}[key]
        table.add_row(label, _number(measured, unit), _number(solved.get(_BESIDE.get(key, key)), unit))
    console.print(table)
    for line in figures["warnings"]:
        console.print(f"warning: {line}", markup=False)
    for line in figures["assumptions"]:
        console.print(f"assumed: {line}", markup=False)


def _solved(point: "OperatingPoint") -> dict[str, Any]:
    """What the solver foretold for the mode in use: its row of the table, else the point itself."""
    row = next((row.model_dump() for row in point.baselines if row.mode is point.mode), {})
    passes = row.get("server_passes_per_token") if point.drafting is not None else None
    return {**point.model_dump(), **row, "tokens_per_round": 1 / passes if passes else None}


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return format_si(value, unit) if unit else f"{value:.4g}"
