"""The derivations, each run once per test process."""

import sys
from functools import cache
from importlib import import_module
from typing import Any

from cuhlm_opt.resources import derivations_dir

SCRIPTS = derivations_dir()
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if "\ndef derive()" in path.read_text())


@cache
def module(name: str) -> Any:
    """A script or helper of the folder."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return import_module(name)


@cache
def derivation(name: str) -> Any:
    """What `derive()` of a script returns."""
    return module(name).derive()
