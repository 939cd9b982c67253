"""A self-contained page about one calibration and one link: words, tables, figures, and a grid to explore."""
