"""Who may change a field, said once, at the field's type.

`Reported[int]` is an int that a host reports, and so on. Comparison, merge, SQL columns and the reference pages all
read these marks (`fields_of`); msgspec sees only the inner type.
"""

from enum import StrEnum
from typing import Annotated, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class Owner(StrEnum):
    """The only writer of a field."""

    REPORTED = "reported"
    """A host's report changes it; a difference is a change."""
    NOTED = "noted"
    """Reported and kept, but a difference in it alone is no change (an age, a time of looking)."""
    MANAGED = "managed"
    """Only an intent changes it."""
    DERIVED = "derived"
    """The stage computes it."""


Reported = Annotated[T, Owner.REPORTED]
Noted = Annotated[T, Owner.NOTED]
Managed = Annotated[T, Owner.MANAGED]
Derived = Annotated[T, Owner.DERIVED]


def fields_of(record: type[object]) -> dict[str, Owner]:
    """Owner of every marked field of a record type, by field name, in declaration order."""
    owners: dict[str, Owner] = {}
    for name, hint in get_type_hints(record, include_extras=True).items():
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Owner):
                owners[name] = mark
    return owners
