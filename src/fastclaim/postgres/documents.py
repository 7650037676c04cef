"""From a row to a task, as a dict."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple

from ..document import ENFORCEMENT, NOT_BEFORE
from ..layout import CLAIMED, COMPLETED, FAILED
from ..matching import epoch_s


class Row(NamedTuple):
    """What a task is made of; the fields are columns."""

    state: str
    payload: str
    enforcement: str | None
    not_before: float | None
    attempts: int
    failures: str | None
    claimed_by: str | None
    claimed_at: float | None
    token: str | None
    owner: int | None
    lease_expires_at: float | None
    ended_at: float | None
    result: str | None

    def task(self) -> dict[str, Any]:
        """The task; ValueError if an integer has more digits than Python's present limit."""
        task: dict[str, Any] = json.loads(self.payload)
        # As it was published, for as long as that counts. What is no time is NaN in the table.
        if self.not_before is None:
            if task.get(NOT_BEFORE) or self.token is not None:
                task.pop(NOT_BEFORE, None)
        elif not math.isnan(self.not_before) and epoch_s(task.get(NOT_BEFORE)) != self.not_before:
            task[NOT_BEFORE] = self.not_before
        if self.enforcement is not None:
            task[ENFORCEMENT] = json.loads(self.enforcement)
        if self.attempts:
            task["attempts"] = self.attempts
        if self.failures is not None:
            task["failures"] = json.loads(self.failures)
        task["status"] = self.state
        if self.state in (CLAIMED, COMPLETED):
            task |= self._claim()
            if ENFORCEMENT in task:
                names = ("claimed_at", "claimed_by")
                task[ENFORCEMENT] |= {name: task[name] for name in names}
        if self.state == COMPLETED:
            task |= {"completed_at": self.ended_at, "result": json.loads(self.result or "null")}
        if self.state == FAILED:
            task["failed_at"] = self.ended_at
        return task

    def _claim(self) -> dict[str, Any]:
        claim: dict[str, Any] = {
            "claimed_by": json.loads(self.claimed_by or "null"),
            "claimed_at": self.claimed_at,
            "claim_lock_acquired_at": self.claimed_at,
            "claim_token": self.token,
        }
        if self.owner is not None:
            claim["owner"] = f"{self.owner:x}"
        if self.lease_expires_at is not None:
            claim["lease_expires_at"] = self.lease_expires_at
        return claim


COLUMNS: Final = ", ".join(f"t.{name}" for name in Row._fields)
