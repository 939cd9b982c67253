"""Figures and tables from recorded results: one script each, checked by the hash of what they read."""
