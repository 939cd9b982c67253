"""Every mode over the bias budget, on one link."""

import numpy as np
import pyarrow as pa

from cuhlm_opt.figures.data import swept

READS = ("records",)


def table(inputs):
    """Throughput and bias of every mode at 10 MHz and 10 dB."""
    budgets = np.concatenate([[0.0], np.geomspace(0.002, 0.3, 30)])
    parts = [swept(inputs, {"max_bias": budgets}, {"domain": domain}, domain=domain) for domain in inputs.domains]
    return pa.concat_tables(parts)
