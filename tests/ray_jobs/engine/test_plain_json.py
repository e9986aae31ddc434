import json
import math

from ray_jobs.engine.plain_json import without_nan


def test_what_json_cannot_say_becomes_none_at_any_depth():
    tree = {"a": [1.0, math.nan, {"b": math.inf}], "c": "nan", "d": (2, -math.inf)}
    found = without_nan(tree)
    assert found == {"a": [1.0, None, {"b": None}], "c": "nan", "d": [2, None]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
