import pytest

from cuhlm_opt.models.fetch import fetch


@pytest.fixture(scope="session")
def smollm2_files():
    """GGUF files of the small real pair by role, fetched once into the user's cache."""
    return fetch("smollm2-q2")
