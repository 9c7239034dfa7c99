"""What a recipe says about watching: the section [watch]."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Auto, NoneWord, Settings

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class WatchSettings(Settings):
    """What is measured while training, how often, and who reads it."""

    quantities: Literal["default", "full", "none"] = "default"
    """what is measured: default (at most 3% of the time), full (at most 15%), or none (losses and metrics only)"""
    every: Auto | Literal["log"] | Count = "auto"
    """steps between two looks inside (1: every step; log: ever rarer); auto: 150, of the full set 40; of many members
    500 and 150"""
    early: bool = True
    """look at steps 1, 2, 4, 8, ... as well (of many members 1, 4, 16, ...): most goes wrong at the start"""
    findings: Literal["live", "end", "none"] = "live"
    """when rules read the records: while training, at its end only, or never"""
    best_error: NoneWord | Share = "none"
    """the least error to hope for, such as a person's: share of wrong answers, or 1 - R2; none: not known"""
