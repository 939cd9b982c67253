"""Hypothesis profiles: `ci` repeats the same examples everywhere; CUHLM_HYPOTHESIS=long searches on."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, max_examples=60, deadline=None)
settings.register_profile("long", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("CUHLM_HYPOTHESIS", "ci"))
