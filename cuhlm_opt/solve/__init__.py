"""From a calibration, a link and a bias budget to an operating point."""

from cuhlm_opt.solve.operating_point import solve
from cuhlm_opt.solve.threshold import Policy, Signal

__all__ = ["Policy", "Signal", "solve"]
