"""Bounded text: the longest a reported string may be."""

from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(max_length=255)]
"""Names, addresses, words."""
Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""Messages and metadata values."""
