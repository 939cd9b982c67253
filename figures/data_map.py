"""The fastest mode within the budget, over the rate of the uplink, the budget and the round trip."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cuhlm_opt.figures.data import swept

READS = ("records",)


def table(inputs):
    """Recommended modes, with `llm` beside them; at 0 dB a hertz carries one bit per second."""
    axes = {
        "snr_db": (0.0,),
        "bandwidth_hz": np.geomspace(1e3, 1e8, 16),
        "max_bias": np.linspace(0.0, 0.1, 21),
        "rtt_s": (0.0, 0.1),
    }
    parts = []
    for domain in inputs.domains:
        rows = swept(inputs, axes, {"domain": domain}, domain=domain)
        parts.append(rows.filter(pc.or_(rows["recommended"], pc.equal(rows["mode"], "llm"))))
    return pa.concat_tables(parts)
