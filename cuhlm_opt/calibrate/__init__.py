"""Calibration: roll out, score, record, fit."""
