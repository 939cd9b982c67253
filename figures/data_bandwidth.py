"""Every mode over the bandwidth, through AWGN."""

import numpy as np
import pyarrow as pa

from cuhlm_opt.figures.data import swept

READS = ("records",)


def table(inputs):
    """Throughput of every mode at 10 dB."""
    hertz = np.geomspace(1e4, 1e9, 26)
    parts = [swept(inputs, {"bandwidth_hz": hertz}, {"domain": domain}, domain=domain) for domain in inputs.domains]
    return pa.concat_tables(parts)
