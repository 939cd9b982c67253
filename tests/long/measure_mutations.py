"""What the tests notice: one sign or constant changed at a time, in every derivation and in formulas of the package.

    python tests/long/measure_mutations.py --out mutations.json

Each mutant is a copy of the project with one change. The tests of that formula run on it until the first failure: its
name is recorded, or that the mutant survived. Changes to the checks inside a derivation count too: a weaker check on a
true statement survives, as do changes that alter nothing (a bisection step more, a finer grid).
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from cuhlm_opt.records import write_atomically

ROOT = Path(__file__).parents[2]
COPIED = ("cuhlm_opt", "derivations", "calibration", "tests", "pyproject.toml", "README.md")
TIMEOUT_S = 300
AGREES = "tests/derivations/test_package_agrees.py"

FORMULAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cuhlm_opt/distributions.py": (
        ("total_variation", "rejection_probability", "residual_law"),
        ("tests/test_distributions.py", AGREES),
    ),
    "cuhlm_opt/uncertainty.py": (
        (
            "PerturbedLogits.__init__",
            "PerturbedLogits.probabilities",
            "groups_of_rank",
            "mean_uncertainty",
            "sampling_variance",
            "slope_attenuation",
        ),
        ("tests/test_uncertainty.py", AGREES),
    ),
    "cuhlm_opt/truncation.py": (
        ("reconstruct", "RankedLaw.distances", "RankedLaw.smallest_size", "RankedLaw.index_at", "largest_from"),
        ("tests/test_truncation.py", AGREES),
    ),
    "cuhlm_opt/bounds.py": (
        ("skip_risk", "query_bias", "truncation_bound_true_draft", "published_surrogate"),
        ("tests/test_bounds.py", AGREES),
    ),
    "cuhlm_opt/payload.py": (
        ("index_bits", "published_bits", "dense_bits", "index_set_bits", "type_bits", "law_bits"),
        ("cuhlm_opt/payload.py", "tests/test_payload.py", "tests/test_codec.py"),
    ),
    "cuhlm_opt/quantisation.py": (
        ("quantise", "dequantise", "quantisation_distances", "_levels", "_nearest", "_below", "_largest_remainder"),
        ("cuhlm_opt/quantisation.py", "tests/test_codec.py"),
    ),
    "cuhlm_opt/codec.py": (("lumped_law", "coarse_codec"), ("cuhlm_opt/codec.py", "tests/test_codec.py")),
    "cuhlm_opt/verification.py": (
        ("Verdict.law", "Proposal.verify", "CoarseProposal.verify", "Query.verify"),
        ("tests/test_verification.py", "tests/test_exact_laws.py"),
    ),
    "cuhlm_opt/channel.py": (
        ("AwgnUplink.rate_bps", "RetransmissionUplink.rate_bps", "ShortPacketUplink.bits_within"),
        ("tests/test_channel.py",),
    ),
    "cuhlm_opt/fading.py": (
        ("Rician.outage", "Nakagami.outage", "ergodic_capacity", "success_probability"),
        ("tests/test_channel.py",),
    ),
    "cuhlm_opt/service.py": (("Attempts.cdf", "Attempts.quantile", "Attempts.atoms"), ("tests/test_channel.py",)),
    "cuhlm_opt/trace.py": (("Trace.finish_s", "Trace.service"), ("tests/test_trace.py",)),
    "cuhlm_opt/latency.py": (
        ("ComputeTimes.llm_s", "TokenLaw.mean_s", "TokenLaw.cdf", "token_law", "speedup_cap"),
        ("tests/test_latency.py", AGREES),
    ),
    "cuhlm_opt/correlation.py": (
        ("fit_linear", "risk_averse_threshold", "risk_prone_threshold"),
        ("tests/test_correlation.py", AGREES),
    ),
    "cuhlm_opt/bootstrap.py": (("line_statistics", "noise_statistics"), ("tests/test_bootstrap.py",)),
    "cuhlm_opt/solve/certificate.py": (
        ("conformal_threshold", "hoeffding_bentkus_p_value", "betting_p_value", "prompts_needed"),
        ("tests/solve/test_certificate.py", AGREES),
    ),
    "cuhlm_opt/sequential.py": (
        ("log_capital", "log_risk_e_values", "risk_bounds", "conformal_p_values", "log_change_e_values"),
        ("tests/test_sequential.py", AGREES),
    ),
    "cuhlm_opt/runs.py": (("repeated", "ask_runs"), ("tests/test_runs.py",)),
    "cuhlm_opt/solve/losses.py": (("prompt_curves", "losses_of"), ("tests/solve/test_certificate.py",)),
    "cuhlm_opt/solve/joint.py": (
        ("Worth.__call__", "Worth.passed", "_spent", "_ranked"),
        ("tests/solve/test_truncation_rules.py", "tests/solve/test_limits.py"),
    ),
    "cuhlm_opt/solve/coding.py": (("Coding.bias", "Coding.mean_bias"), ("tests/solve/test_truncation_rules.py",)),
    "cuhlm_opt/solve/settling.py": (("most_skippable",), ("tests/solve/test_modes_table.py",)),
}
"""Functions of the package whose every sign and constant is changed, and the tests that must notice."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change: `was` became `now` in `where`, on `line` of `file`; `tests` run on it."""

    file: str
    where: str
    line: int
    was: str
    now: str
    source: str
    tests: tuple[str, ...]


class Mutation(ast.NodeTransformer):
    """Changes the sign or constant number `at` of the nodes it visits; `at` < 0 only counts them."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.count = at, 0
        self.change: tuple[int, str, str] | None = None

    def _next(self, node: ast.expr, changed: ast.expr) -> ast.expr:
        self.count += 1
        if self.count - 1 != self.at:
            return node
        self.change = (node.lineno, ast.unparse(node), ast.unparse(changed))
        return changed

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """+ and - change places; text that is joined is left alone."""
        self.generic_visit(node)
        other = {ast.Add: ast.Sub(), ast.Sub: ast.Add()}.get(type(node.op))
        if other is None or any(_is_text(side) for side in (node.left, node.right)):
            return node
        return self._next(node, ast.BinOp(node.left, other, node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """A minus sign goes; the number behind it is not changed as well."""
        if not isinstance(node.op, ast.USub):
            return self.generic_visit(node)
        return self._next(node, node.operand)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A number grows: integers by 1, others to twice or 1."""
        if type(node.value) is int:
            return self._next(node, ast.Constant(node.value + 1))
        if type(node.value) is float:
            return self._next(node, ast.Constant(node.value * 2 or 1.0))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """How many cases a check runs through is no formula."""
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            return node
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """Text."""
        return node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(file: str, names: tuple[str, ...], tests: tuple[str, ...]) -> Iterator[Mutant]:
    """Every mutant of the functions `names` of `file`; of the whole file where there are none."""
    text = (ROOT / file).read_text()
    for name in names or ("",):
        counter = Mutation()
        counter.visit(_find(ast.parse(text), name))
        for at in range(counter.count):
            tree, mutation = ast.parse(text), Mutation(at)
            mutation.visit(_find(tree, name))
            assert mutation.change is not None
            line, was, now = mutation.change
            yield Mutant(
                file=file, where=name or Path(file).stem, line=line, was=was, now=now,
                source=ast.unparse(ast.fix_missing_locations(tree)), tests=tests,
            )  # fmt: skip


def _find(tree: ast.Module, name: str) -> ast.AST:
    node: ast.AST = tree
    for part in filter(None, name.split(".")):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    return node


def all_mutants(per_derivation: int, seed: int) -> list[Mutant]:
    """A sample of each derivation's mutants, all of each package formula's."""
    rng, mutants = random.Random(seed), []
    for path in sorted((ROOT / "derivations").glob("*.py")):
        if "\ndef derive()" in path.read_text():
            tests = (f"tests/derivations/test_derivations.py::test_holds[{path.stem}]", AGREES)
            found = list(mutants_of(f"derivations/{path.name}", (), tests))
            mutants += sorted(rng.sample(found, min(per_derivation, len(found))), key=lambda mutant: mutant.line)
    for file, (names, tests) in FORMULAS.items():
        mutants += mutants_of(file, names, tests)
    return mutants


def first_failure(mutant: Mutant, copy: Path) -> str | None:
    """The first test that fails on the mutant, "timeout", or None where all pass."""
    target = copy / mutant.file
    original = target.read_text()
    target.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *mutant.tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        target.write_text(original)
    if done.returncode == 0:
        return None
    failed = (line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR ")))
    return next(failed, f"pytest exit {done.returncode}")


def main() -> None:
    """Mutate, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--per-derivation", type=int, default=4, help="mutants of each derivation, drawn at random")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    mutants = [mutant for mutant in all_mutants(asked.per_derivation, asked.seed) if asked.only in mutant.file]
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(asked.workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for worker in range(asked.workers):
            copies.put(_copy(Path(scratch) / str(worker)))

        def run(mutant: Mutant) -> dict[str, object]:
            copy = copies.get()
            try:
                killed_by = first_failure(mutant, copy)
            finally:
                copies.put(copy)
            if killed_by is None:
                print(f"survived: {mutant.file}:{mutant.line} {mutant.was}  ->  {mutant.now}", file=sys.stderr)
            fields = {name: value for name, value in asdict(mutant).items() if name not in ("source", "tests")}
            return {**fields, "killed_by": killed_by}

        outcomes = []
        for number, outcome in enumerate(pool.map(run, mutants), 1):
            outcomes.append(outcome)
            if number % 20 == 0:
                print(f"{number} of {len(mutants)} mutants", file=sys.stderr)
    killed = sum(outcome["killed_by"] is not None for outcome in outcomes)
    result = {"seed": asked.seed, "mutants": len(outcomes), "killed": killed, "outcomes": outcomes}
    write_atomically(asked.out, json.dumps(result, indent=1) + "\n")
    print(f"{killed} of {len(outcomes)} mutants killed", file=sys.stderr)


def _copy(target: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(source, target / name)
    return target


if __name__ == "__main__":
    main()
