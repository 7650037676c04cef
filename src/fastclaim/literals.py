"""The words that arguments may be, for whoever annotates what passes them on."""

from __future__ import annotations

from typing import Literal, TypeAlias

State: TypeAlias = Literal["available", "claimed", "completed", "failed"]
PrunableState: TypeAlias = Literal["available", "completed", "failed"]
Order: TypeAlias = Literal["priority", "oldest", "any"]
IfExists: TypeAlias = Literal["error", "ignore", "replace"]
Durability: TypeAlias = Literal["none", "data", "full"]
