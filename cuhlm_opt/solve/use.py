"""Where a calibration is not of the use that is made of it: thresholds do not carry over."""

from collections.abc import Mapping
from typing import Any

from cuhlm_opt.artefacts import Calibration
from cuhlm_opt.provenance import installed_differences


def mismatches(calibration: Calibration, stated: Mapping[str, Any]) -> list[str]:
    """Warnings, without a look at the models: what was stated of the use, and the versions that are installed.

    Args:
        calibration: whose provenance is compared.
        stated: `pair`, `backend`, `temperature`, `top_p`; None where nothing was stated.
    """
    models = calibration.provenance.get("pair", {})
    recorded = {
        "pair": calibration.pair,
        "backend": models.get("slm", {}).get("backend"),
        "temperature": calibration.temperature,
        "top_p": calibration.top_p,
    }
    found = [
        f"{name} {stated[name]} is meant, and the calibration is of {'one unknown' if then is None else then}: "
        "its thresholds do not carry over"
        for name, then in recorded.items()
        if stated[name] is not None and stated[name] != then
    ]
    return found + [
        f"{difference}: laws may have changed; cuhlm-opt calibrate --check tests whether the calibration still holds"
        for difference in installed_differences(models)
    ]
