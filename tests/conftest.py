"""Hypothesis profiles, of which `ci` repeats the same examples and CUHLM_HYPOTHESIS=long searches on; refusals."""

import os
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings

from cuhlm_opt.cli.main import main

settings.register_profile("ci", derandomize=True, max_examples=60, deadline=None)
settings.register_profile("long", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("CUHLM_HYPOTHESIS", "ci"))


@pytest.fixture
def refused(capfd, tmp_path, monkeypatch) -> Callable[[Sequence[str], Sequence[str]], None]:
    """Check that a command ends with exit code 2 and one line that holds some parts, and leaves nothing behind."""

    def check(arguments: Sequence[str], parts: Sequence[str]) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert all(part in err for part in parts), err
        assert list(tmp_path.iterdir()) == []

    return check
