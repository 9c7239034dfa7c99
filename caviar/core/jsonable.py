"""JSON that every reader accepts: NaN and infinity, which JSON lacks, become words."""

import math
from typing import Any


def jsonable(value: Any) -> Any:
    """Return `value` with NaN, Infinity and -Infinity as strings, tuples as lists, and keys as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value
