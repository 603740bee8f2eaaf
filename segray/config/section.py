"""What all sections of the settings are made of: the base class, a field with its meaning, kinds of values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Precision = Literal["auto", "bf16", "fp16", "float32"]
YAML_WORDS = {True: "yes", False: "no"}
Choice = Annotated[
    Literal["auto", "yes", "no"],
    BeforeValidator(lambda told: YAML_WORDS[told] if isinstance(told, bool) else told),
]
"""YAML reads the words yes and no as true and false."""


def setting(default: Any, meaning: str, unit: str = "") -> Any:
    """A field with its meaning and unit, as ``segray config`` prints them."""
    return Field(default=default, description=meaning, json_schema_extra={"unit": unit}, validate_default=True)


class Section(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
