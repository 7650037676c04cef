"""What mypy says of programs that use fastclaim: run with `mypy`, not with pytest.

Each ``type: ignore`` stands where a caller has made a mistake. mypy, being strict, complains of one
that is not needed, and so if a mistake is no longer found.
"""

from __future__ import annotations

import fastclaim
from fastclaim import Durability, Order, State, TaskPool
from fastclaim.aio import AsyncTaskPool


def good(pool: TaskPool) -> None:
    """What is right is not complained of."""
    TaskPool("/tmp/agents", durability="full")
    pool.publish("x", "Do it", if_exists="ignore", requirements=["python"])
    claim = pool.claim_next("agent-7", ["python"], order="oldest")
    if claim is not None:
        claim.complete({"version": fastclaim.__version__, "place": fastclaim.A2A_BASE_DIR})
    pool.prune("completed", 3600)
    print(*pool.tasks("failed"), pool.counts()["available"], fastclaim.Finding)


def good_wrapper(pool: TaskPool, order: Order, state: State, durability: Durability) -> None:
    """Who passes words on can name their types."""
    TaskPool("/tmp/agents", durability=durability)
    pool.claim_next("agent-7", order=order)
    print(*pool.tasks(state), *(list(pool.tasks(each)) for each in pool.counts()))


async def good_with_coroutines() -> None:
    """Likewise."""
    pool = AsyncTaskPool("/tmp/agents", durability="none", max_attempts=3)
    async with pool.claim("x", "agent-7") as claim:
        claim.result = claim.task["n"]
    claim_or_none = await pool.claim_next("agent-7", order="any", wait=None)
    print(claim_or_none and claim_or_none.task_id)


def mistaken(pool: TaskPool) -> None:
    """Mistakes with names."""
    print(fastclaim.TaskPol)  # type: ignore[attr-defined]
    TaskPool(durability="most")  # type: ignore[arg-type]
    pool.publish("x", if_exists="overwrite")  # type: ignore[arg-type]
    pool.publish_many([], if_exists="overwrite")  # type: ignore[arg-type]
    pool.claim_next("agent-7", order="prio")  # type: ignore[arg-type]
    pool.claim_many("agent-7", 3, order="prio")  # type: ignore[arg-type]
    pool.tasks("done")  # type: ignore[arg-type]
    pool.prune("claimed", 3600)  # type: ignore[arg-type]


async def mistaken_with_coroutines(pool: AsyncTaskPool) -> None:
    """Likewise."""
    AsyncTaskPool(durability="most")  # type: ignore[arg-type]
    AsyncTaskPool(durable=True)  # type: ignore[call-arg]
    await pool.claim_next("agent-7", order="prio")  # type: ignore[arg-type]
    await pool.publish("x", if_exists="overwrite")  # type: ignore[arg-type]
    print(pool.claim_next("agent-7").task)  # type: ignore[attr-defined]
