"""What a table's columns are, as data and preprocessing both need to know."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["numeric", "boolean", "categorical"]
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Column:
    """One input column: its name in the raw table and how it is read."""

    name: str
    kind: Kind
