"""`cuhlm-opt cell`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cuhlm_opt.units import format_si

_SHOWN = 20


def cell(
    file: Annotated[Path, typer.Argument(help="TOML file: the bandwidth, and a table for each device.")],
    out: Annotated[Path | None, typer.Option(help="Write the JSON here as well.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Share one uplink bandwidth among devices, each at its own operating point and within its own bias budget."""
    import json as json_format

    from cuhlm_opt.cell import read_cell, report, solve_cell
    from cuhlm_opt.records import write_atomically

    read = read_cell(file)
    found = report(read, solve_cell(read))
    text = json_format.dumps(found, indent=2)
    if out is not None:
        write_atomically(out, text + "\n")
    if json:
        print(text)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console, devices = Console(width=100), found["devices"]
    title = f"{len(devices)} devices on {format_si(found['bandwidth_hz'], 'Hz')}, least {found['objective']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("device", "mode"):
        table.add_column(name)
    for name in ("share", "SNR in it", "skip", "bits/upload", "latency", "tokens/s", "bias"):
        table.add_column(name, justify="right")
    for device in sorted(devices, key=lambda each: -each["latency_s"])[:_SHOWN]:
        skip, bits, snr = device["skip_rate"], device["payload_bits"], device["snr_in_share_db"]
        table.add_row(
            device["name"],
            device["mode"],
            format_si(device["share_hz"], "Hz"),
            "-" if snr is None else f"{snr:.1f} dB",
            "-" if skip is None else f"{skip:.1%}",
            "-" if bits is None else f"{bits:,.0f}",
            format_si(device["latency_s"], "s"),
            f"{device['throughput_tokens_per_s']:.4g}",
            "-" if device["bias"] is None else f"{device['bias']:.4f}",
        )
    console.print(table)
    if len(devices) > _SHOWN:
        console.print(f"the {_SHOWN} of the largest latency are shown; --json has all", highlight=False)
    compared = Table(box=box.SIMPLE_HEAD)
    compared.add_column("shares")
    for name in ("objective", "mean latency", "worst latency", "worst device"):
        compared.add_column(name, justify="right")
    for name, split in found["splits"].items():
        compared.add_row(
            name.replace("_", " "),
            f"{split['objective']:.5g}",
            format_si(split["mean_latency_s"], "s"),
            format_si(split["worst_latency_s"], "s"),
            split["worst_device"],
        )
    console.print(compared)
    console.print(f"residual of the conditions of optimality: {found['optimality_residual']:.1e}", highlight=False)
    for line in found["assumptions"]:
        console.print(f"assumed: {line}", highlight=False)
