"""Every mode over the signal-to-noise ratio, through AWGN and through Rayleigh fading."""

import numpy as np
import pyarrow as pa

from cuhlm_opt.figures.data import swept

READS = ("records",)


def table(inputs):
    """Throughput of every mode at 10 MHz."""
    decibels = np.linspace(-20.0, 30.0, 21)
    parts = [
        swept(inputs, {"snr_db": decibels}, {"domain": domain, "channel": channel}, domain=domain, channel=channel)
        for domain in inputs.domains
        for channel in ("awgn", "rayleigh")
    ]
    return pa.concat_tables(parts)
