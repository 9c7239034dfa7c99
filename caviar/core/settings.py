"""The base of every recipe section.

Settings live beside what they build. TOML has no null, so an optional setting says "none" (leave it out)
or "auto" (caviar chooses from the data; the resolved recipe then holds the choice).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

Auto = Literal["auto"]
NoneWord = Literal["none"]


class Settings(BaseModel):
    """A frozen, strict group of settings: unknown keys are refused, NaN and infinity are refused.

    Strict: `true` or "3" is no number, 3.0 is no count; an integer is still welcome where a fraction may stand.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, value: Any) -> Any:
        """TOML and JSON have lists only; settings hold tuples, which cannot change."""
        if not isinstance(value, dict):
            return value
        return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
