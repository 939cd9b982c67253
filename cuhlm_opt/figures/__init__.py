"""Figures and tables from recorded results: one script each, drawn, cached and checked by the hash of what they read."""
