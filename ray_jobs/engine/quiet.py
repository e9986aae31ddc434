"""Keeps other libraries' notes to their own developers out of a job's output."""

from __future__ import annotations

import logging
import warnings

TALKATIVE = (
    "torchrec",
    "torch.fx",
    "torch.onnx",
    "torch.export",
    "onnxscript",
    "ray.data",
    "ray.train",
)


def quiet_libraries() -> None:
    """Shows errors of the talkative libraries only, and no deprecation notes."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
