"""Tasks as other hands may have put them into a pool: whatever their fields are."""

from __future__ import annotations

from typing import Any

from fastclaim import TaskPool


def publish_unchecked(pool: TaskPool, task_id: object, **fields: Any) -> None:
    """Publish a task with fields that no verb takes."""
    pool._publish_original({"task_id": task_id, **fields})
