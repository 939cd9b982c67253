"""`cuhlm-opt figures`, `cuhlm-opt figures-data`."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cuhlm_opt.cli.progress import note
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.resources import figures_dir

_Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; none makes all.")]
_Calibration = Annotated[str, typer.Option(help="Shipped calibration, or folder of one.")]


def figures(
    names: _Names = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Of figures: a list of pdf, png, svg.")] = "pdf,png,svg",
    width: Annotated[str, typer.Option(help="Of figures: column (3.5 in) or page (7.16 in).")] = "column",
    calibration: _Calibration = "qwen2.5-coder",
    list_: Annotated[bool, typer.Option("--list", help="List figures and tables instead.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only find which in --out are stale; exit code 1.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Draw figures and write tables from recorded results, each with its caption; tables as .md and .tex."""
    from cuhlm_opt.figures.inputs import Inputs
    from cuhlm_opt.figures.making import Width, make, parse_formats
    from cuhlm_opt.figures.making import check as check_all
    from cuhlm_opt.figures.scripts import choose, find_scripts

    scripts = choose(find_scripts(figures_dir()), names or ())
    if list_:
        listed = [{"name": s.name, "summary": s.summary, "reads": s.reads} for s in scripts]
        if json:
            print(json_format.dumps({"figures": listed}, indent=2))
        else:
            longest = max(len(script.name) for script in scripts)
            print("\n".join(f"{script.name:{longest}}  {script.summary}" for script in scripts))
        return
    if out is None:
        raise InputError("--out is missing; give a folder to write to")
    if width not in list(Width):
        raise unknown_name("--width", width, list(Width))
    chosen = parse_formats(formats)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r} is not allowed; it is a file, give a folder")
    inputs = Inputs(calibration, figures_dir(), out)
    if check:
        check_all(scripts, inputs)
        print(json_format.dumps({"out": str(out), "stale": []}) if json else f"{len(scripts)} in {out} are up to date")
        return
    with Console(stderr=True).status("drawing") as status:
        made = make(
            scripts, inputs, formats=chosen, width=Width(width), progress=lambda name: status.update(f"drawing {name}")
        )
    if json:
        results = [{"name": m.name, "files": [str(path) for path in m.files], "caption": m.caption} for m in made]
        print(json_format.dumps({"out": str(out), "calibration": calibration, "figures": results}, indent=2))
    else:
        print(f"{', '.join(each.name for each in made)} in {out}, each with its caption in a .txt file")


def figures_data(
    names: _Names = None,
    out: Annotated[Path | None, typer.Option(help="Folder whose data/ is written to: the --out of figures.")] = None,
    calibration: _Calibration = "qwen2.5-coder",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Compute the tables that figures read, minutes of sweeps; what is up to date stays."""
    from cuhlm_opt.figures.data import data_scripts, make_data
    from cuhlm_opt.figures.inputs import Inputs
    from cuhlm_opt.figures.scripts import choose

    scripts = choose(data_scripts(figures_dir()), names or ())
    if out is None:
        raise InputError("--out is missing; give the folder that figures will be written to")
    written = make_data(scripts, Inputs(calibration, figures_dir(), out), out, progress=note)
    if json:
        print(json_format.dumps({"out": str(out), "written": [str(path) for path in written]}))
    else:
        print(f"{len(written)} tables made, {len(scripts) - len(written)} up to date, in {out / 'data'}")
