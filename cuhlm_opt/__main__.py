"""`python -m cuhlm_opt`."""

from cuhlm_opt.cli.main import run

run()
