"""The base of every recipe section.

Settings live beside what they build. TOML has no null, so an optional setting says "none" (leave it out)
or "auto" (caviar chooses from the data; the resolved recipe then holds the choice).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]
NoneWord = Literal["none"]


class Settings(BaseModel):
    """A frozen, strict group of settings: unknown keys are refused, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
