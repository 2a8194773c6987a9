"""Base class of all groups of settings, which are checked as a whole and frozen, and shared types."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A group of settings. Unknown keys are refused, values are not converted, and nothing can change later."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


S = TypeVar("S", bound=Section)


def replace(section: S, values: dict[str, Any]) -> S:
    """Return a copy of `section` with other values, checked like the original. Raises ValidationError."""
    return type(section).model_validate(section.model_dump() | values)
