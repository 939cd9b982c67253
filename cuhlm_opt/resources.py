"""Where the data files lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def calibration_dir() -> Path:
    """Folder of the pair registry, the recipes, prompts and recorded calibrations.

    >>> (calibration_dir() / "pairs.toml").is_file()
    True
    """
    installed = _PACKAGE / "data" / "calibration"
    return installed if installed.is_dir() else _PACKAGE.parent / "calibration"


def derivations_dir() -> Path:
    """Folder of the derivations, one script per result.

    >>> (derivations_dir() / "derivation.py").is_file()
    True
    """
    installed = _PACKAGE / "data" / "derivations"
    return installed if installed.is_dir() else _PACKAGE.parent / "derivations"


def figures_dir() -> Path:
    """Folder of the figures, one script each, with the cached tables and measurements that they read.

    >>> (figures_dir() / "style.py").is_file()
    True
    """
    installed = _PACKAGE / "data" / "figures"
    return installed if installed.is_dir() else _PACKAGE.parent / "figures"
