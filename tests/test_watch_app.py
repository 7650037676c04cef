"""`fastclaim watch` without a terminal, where what it does meanwhile can be held."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from fastclaim import TaskPool

pytest.importorskip("textual")
from textual.pilot import Pilot
from textual.widgets import DataTable, Static, Tabs

from fastclaim.cli import survey, watch_app

from .commands import DEADLINE_S

_NOT_AGAIN_S = 3600.0


@pytest.fixture
def app(tmp_path):
    """The screen over a pool with a claimed task and one that waits; it looks when it has to."""
    pool = TaskPool(tmp_path / "pool")
    pool.publish_many([{"task_id": "claimed"}, {"task_id": "waiting"}])
    pool.claim("claimed", "agent-1")
    return watch_app.WatchApp(pool, "pool", _NOT_AGAIN_S)


async def _first_cell(pilot: Pilot[None]) -> str:
    table = pilot.app.query_one(DataTable)
    async with asyncio.timeout(DEADLINE_S):
        while table.row_count == 0:
            await pilot.pause(0.01)
    return f"{table.get_row_at(0)[0]}"


def test_a_tab_that_is_shown_already_keeps_its_tasks(app):
    async def watch() -> None:
        async with app.run_test() as pilot:
            assert await _first_cell(pilot) == "claimed"
            tabs = app.query_one(Tabs)
            app.on_tabs_tab_activated(Tabs.TabActivated(tabs, tabs.active_tab))
            assert app.query_one(DataTable).row_count == 1

    asyncio.run(watch())


def test_a_task_is_shown_without_what_stands_in_it_for_programs_alone(app):
    async def watch() -> None:
        async with app.run_test() as pilot:
            assert await _first_cell(pilot) == "claimed"
            await pilot.press("s")
            await pilot.pause()
            shown = json.loads(f"{app.screen.query(Static)[1].content}")
        assert shown["claimed_by"] == "agent-1"
        assert not {"fastclaim", "owner", "claim_lock_acquired_at"} & shown.keys()

    asyncio.run(watch())


def test_a_state_asked_for_while_another_is_read_is_read_next(app, monkeypatch):
    read, may_go_on = survey.Survey.tasks, threading.Event()

    def tasks(self, state, limit):
        assert may_go_on.wait(DEADLINE_S)
        return read(self, state, limit)

    monkeypatch.setattr(survey.Survey, "tasks", tasks)

    async def watch() -> None:
        async with app.run_test() as pilot:
            await pilot.press("tab")
            await pilot.pause()
            may_go_on.set()
            assert await _first_cell(pilot) == "waiting"

    asyncio.run(watch())
