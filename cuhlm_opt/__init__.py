"""Uncertainty-aware hybrid language models: calibrate, solve, decode."""

__version__ = "0.1.0"
