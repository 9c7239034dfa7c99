"""What is odd about a typed table but no error: columns that say nothing or number the rows, repeated rows."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

CHECKED_ROWS = 2_000_000
SAMPLE_ROWS = 10_000
LEAST_ROWS = 20
DISTINCT_SHARE = 0.95
ID_NAME = re.compile(
    r"(?:^|[ _.-])(?:id|ids|uid|uuid|guid|index|idx|row|rownum|row_?number|unnamed: 0)$|[a-z]I[Dd]$", re.I
)


@dataclass(frozen=True)
class TableProfile:
    """empty: columns without a value. constant: with one value. ids: that tell rows apart and nothing else.

    repeated: rows equal to an earlier one among the first `checked` rows, the columns above left out.
    """

    empty: tuple[str, ...]
    constant: tuple[str, ...]
    ids: tuple[str, ...]
    repeated: int
    checked: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "TableProfile":
        names = {key: tuple(stored[key]) for key in ("empty", "constant", "ids")}
        return TableProfile(**names, repeated=int(stored["repeated"]), checked=int(stored["checked"]))


def profile_table(frame: pl.DataFrame, features: list[str]) -> TableProfile:
    """Look at the feature columns of a typed table; what needs every value in memory looks at the first rows only."""
    empty, constant = _flat(frame, features)
    rest = [name for name in features if name not in empty and name not in constant]
    suspects = _suspects(frame.select(rest).head(SAMPLE_ROWS))
    ids = tuple(name for name in rest if name in suspects and _is_id(frame[name]))
    kept = [name for name in frame.columns if name not in {*empty, *constant, *ids}]
    head = frame.select(kept).head(CHECKED_ROWS)
    return TableProfile(empty, constant, ids, _repeated(head), head.height)


def _repeated(frame: pl.DataFrame) -> int:
    """Count the rows that are equal to an earlier one."""
    numbers = frame.select(pl.col(pl.Float64))
    for part in (numbers, frame):  # numbers alone mostly tell all rows apart, at a fraction of what texts cost
        repeated = part.height - part.hash_rows().n_unique() if part.width else part.height
        if repeated == 0:
            return 0
    return repeated


def _flat(frame: pl.DataFrame, features: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    head = frame.head(SAMPLE_ROWS)
    flat = [name for name in features if head[name].n_unique() == 1]  # only these can be, and most columns are not
    if not flat:
        return (), ()
    nulls = frame.select(pl.col(flat).null_count()).row(0)
    lowest = frame.select(pl.col(flat).min()).row(0)
    highest = frame.select(pl.col(flat).max()).row(0)
    empty = tuple(name for name, count in zip(flat, nulls, strict=True) if count == frame.height)
    facts = zip(flat, nulls, lowest, highest, strict=True)
    constant = tuple(name for name, count, low, high in facts if count == 0 and low == high and frame.height > 1)
    return empty, constant


def _suspects(head: pl.DataFrame) -> set[str]:
    """Return the columns that may tell rows apart, as far as the first rows show: text, and whole numbers."""
    if head.height < LEAST_ROWS:
        return set()
    text = [name for name, dtype in head.schema.items() if dtype == pl.String]
    numbers = [name for name, dtype in head.schema.items() if dtype == pl.Float64]
    columns = pl.col(numbers)
    whole = head.select((columns.is_not_null() & (columns == columns.floor())).all()).row(0) if numbers else ()
    return {*text, *(name for name, found in zip(numbers, whole, strict=True) if found)}


def _is_id(series: pl.Series) -> bool:
    """Whether a column merely tells rows apart: text that is almost all distinct, or integers that number the rows.

    Integers number the rows when all differ and they rise by small steps, fill a range without a gap, or the column is
    called id, index, row or the like.
    """
    if series.dtype == pl.String:
        return all(_distinct_share(series.head(rows)) >= DISTINCT_SHARE for rows in (SAMPLE_ROWS, CHECKED_ROWS))
    head = series.head(SAMPLE_ROWS)
    return series.null_count() == 0 and head.n_unique() == len(head) and _numbers_rows(series.head(CHECKED_ROWS))


def _distinct_share(series: pl.Series) -> float:
    values = series.drop_nulls()
    return values.n_unique() / len(values) if len(values) >= LEAST_ROWS else 0.0


def _numbers_rows(series: pl.Series) -> bool:
    lowest, highest = float(series.min()), float(series.max())  # type: ignore[arg-type]
    rows = len(series)
    if not (series == series.floor()).all() or series.n_unique() < rows:
        return False
    rising = bool((series.diff().drop_nulls() > 0).all())
    small_steps = highest - lowest <= 2 * rows
    return ID_NAME.search(series.name) is not None or highest - lowest == rows - 1 or (rising and small_steps)


def describe_profile(profile: TableProfile, name: str, ignoring_auto: bool) -> list[str]:
    """Return the notices, one sentence each; `name` is what they call the table."""
    keep = "keep them with --set data.ignore='[]'"
    notices = []
    if profile.empty:
        notices.append(f"{name}: columns without a single value are left out: {_listed(profile.empty)}.")
    for found, what in ((profile.constant, "hold one value only"), (profile.ids, "merely tell rows apart")):
        if found and ignoring_auto:
            notices.append(f"{name}: columns that {what} are left out: {_listed(found)} ({keep}).")
        elif found:
            notices.append(f"{name}: columns that {what} are kept, as data.ignore asks: {_listed(found)}.")
    if profile.repeated:
        among = (
            f"the first {profile.checked:,} rows" if profile.checked == CHECKED_ROWS else f"{profile.checked:,} rows"
        )
        verb = "row repeats an earlier one" if profile.repeated == 1 else "rows repeat an earlier one"
        notices.append(f"{name}: {profile.repeated:,} {verb} (of {among}); equal rows may land in different splits.")
    return notices


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more
