"""The fastest mode within the budget, over the round trip, the budget and the rate of the uplink."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cuhlm_opt.figures.data import swept

READS = ("records",)


def table(inputs):
    """Recommended modes, with `llm` and `coarse` beside them; at 0 dB a hertz carries one bit per second."""
    axes = {
        "snr_db": (0.0,),
        "bandwidth_hz": (1e4, 1e7),
        "max_bias": np.geomspace(0.004, 0.4, 25),
        "rtt_s": np.linspace(0.0, 0.2, 11),
    }
    parts = []
    for domain in inputs.domains:
        rows = swept(inputs, axes, {"domain": domain}, domain=domain)
        beside = pc.is_in(rows["mode"], pa.array(["llm", "coarse"]))
        parts.append(rows.filter(pc.or_(rows["recommended"], beside)))
    return pa.concat_tables(parts)
