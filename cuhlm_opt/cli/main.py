"""The `cuhlm-opt` command: mounts the commands, turns every expected failure into one line and an exit code."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from cuhlm_opt import __version__
from cuhlm_opt.cli import pairs
from cuhlm_opt.cli.calibrate import calibrate, fit
from cuhlm_opt.cli.cell import cell
from cuhlm_opt.cli.decode import decode
from cuhlm_opt.cli.derive import derive
from cuhlm_opt.cli.evaluate import evaluate
from cuhlm_opt.cli.figures import figures, figures_data
from cuhlm_opt.cli.report import report
from cuhlm_opt.cli.serve import serve
from cuhlm_opt.cli.simulate import simulate
from cuhlm_opt.cli.solve import solve
from cuhlm_opt.cli.sweep import sweep
from cuhlm_opt.errors import CuhlmError

app = typer.Typer(
    name="cuhlm-opt",
    help="Uncertainty-aware hybrid language models: calibrate a pair, solve for an operating point, decode.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    calibrate, fit, solve, sweep, simulate, cell, decode, serve, evaluate, derive, figures, figures_data, report,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(pairs.app, name="pairs")

# Typer carries a copy of click in some releases and imports it in others; either way this is its ClickException.
_UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_EXTRAS = {
    "llama_cpp": "edge",
    "torch": "models",
    "transformers": "models",
    "gguf": "models",
    "sympy": "proofs",
    "matplotlib": "figures",
    "jinja2": "figures",
    "ray": "ray",
    "grpc": "remote",
    "grpc_health": "remote",
    "google": "remote",
    "datasets": "datasets",
}


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options before the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 bad input, 3 infeasible, 130 interrupted)."""
    try:
        outcome = app(args=arguments, standalone_mode=False)
    except CuhlmError as error:
        return _fail(str(error), error.exit_code)
    except _UsageError as error:
        return _fail(_usage(error, sys.argv[1:] if arguments is None else arguments), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), 1)
    except MemoryError:
        return _fail("out of memory", 1)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror}", 1)
    return outcome if isinstance(outcome, int) else 0


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the command, with the value that was given."""
    message: str = error.format_message()
    for option in getattr(getattr(error, "param", None), "opts", ()):
        if option in arguments[:-1]:
            value = arguments[arguments.index(option) + 1]
            return message if value in message else f"{message} (given {value!r})"
    return message


def _missing(error: ModuleNotFoundError) -> str:
    """Which extra brings the module that a command lacks."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        raise error
    return f"{error.name} is not installed; get it with: pip install 'cuhlm-opt[{extra}]'"


def _fail(message: str, code: int) -> int:
    print("cuhlm-opt: " + " ".join(message.split()), file=sys.stderr)
    return code
