"""Jobs, and the engine below them.

A private cluster on this machine is protected by a token of its own. Ray reads these variables
when it is first imported, hence here; a job of a running cluster (RAY_ADDRESS) keeps the cluster's.
"""

import os
import secrets

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
