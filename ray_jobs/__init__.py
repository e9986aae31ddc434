"""Jobs, and the engine below them.

Ray and OpenMP read these variables when they are first imported, hence here. A private cluster on
this machine is protected by a token of its own; a job of a running cluster (RAY_ADDRESS) keeps the
cluster's. Threads that wait spin for some microseconds and then sleep: a training step of two
threads takes a sixth longer where they sleep at once, and beside other busy processes ten times as
long where they spin for ever. Workers of Ray Train would print all that libraries have to say to
their own developers. While `python -m ray_jobs.<job>` imports, nothing is garbage, and looking for
it took a fifth of a job's start; once it has begun it calls `collect_again`.
"""

import gc
import logging
import os
import secrets
import sys

if sys.argv[:1] == ["-m"]:
    gc.disable()
logging.getLogger().setLevel(logging.WARNING)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if not os.environ.get("RAY_ADDRESS") and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def collect_again() -> None:
    """Looks for garbage again where a job's start does not; not among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
