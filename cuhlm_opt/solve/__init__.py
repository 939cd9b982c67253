"""From a calibration, a link and a bias budget to an operating point."""

from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.operating_point import solve
from cuhlm_opt.solve.threshold import Policy

__all__ = ["Policy", "Signal", "solve"]
