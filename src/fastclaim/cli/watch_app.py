"""The screen of `fastclaim watch`: figures above, tasks below, keys that act on the chosen task.

Everything that touches the pool runs in a thread of its own, so that a slow disk does not freeze
the screen; what comes of it is shown by the screen's own thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static, Tab, Tabs

from .. import layout
from ..errors import TaskPoolError
from ..literals import State
from ..pool import TaskPool
from . import fields, os_error_text
from .answer import told
from .exits import SIGNALLED, one_line, sentence_of
from .status import lease, summary
from .stopping import STOP_SIGNALS
from .survey import Holding, Snapshot, Survey, last_error
from .tables import ago, first_line, length

_TASKS_SHOWN: Final = 200
_COLUMNS: Final = {
    layout.CLAIMED: ("task", "agent", "held for", "lease", "attempts", "description"),
    layout.AVAILABLE: ("task", "priority", "waiting for", "attempts", "description"),
    layout.COMPLETED: ("task", "agent", "done", "took", "result"),
    layout.FAILED: ("task", "failed", "attempts", "error"),
}
_SHOWN_CHARACTERS: Final = 72


class WatchApp(App[None]):
    """The application.

    Parameters
    ----------
    pool : TaskPool
        What to watch.
    name : str
        Its path or URL.
    interval_s : float
        How often to look.
    """

    TITLE = "fastclaim watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: auto; padding: 0 1; background: $panel; }
    #message { height: 1; padding: 0 1; color: $text-muted; }
    DataTable { height: 1fr; }
    Dialog { align: center middle; }
    Dialog > Vertical {
        width: 90%; height: auto; max-height: 90%; padding: 1 2; border: round $primary;
        background: $surface;
    }
    Dialog VerticalScroll { height: auto; max-height: 60vh; }
    Dialog .title { text-style: bold; color: $primary; }
    Dialog .keys { color: $text-muted; padding-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,s", "show", "show", priority=True),
        Binding("w", "why", "why"),
        Binding("r", "release", "release"),
        Binding("t", "retry", "retry"),
        Binding("p", "pause", "pause/resume"),
        Binding("tab", "next_state", "next state", priority=True),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, pool: TaskPool, name: str, interval_s: float) -> None:
        super().__init__()
        self._pool = pool
        self._pool_name = name
        self._interval_s = interval_s
        self._survey = Survey(pool)
        self._state: State = layout.CLAIMED
        self._is_looking = False
        self._had_terminal = _has_terminal()
        self._tasks: list[dict[str, Any]] = []
        self._paused = False

    def compose(self) -> ComposeResult:
        yield Static(id="summary")
        order = (layout.CLAIMED, *(s for s in layout.STATES if s != layout.CLAIMED))
        yield Tabs(*(Tab(state, id=state) for state in order))
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Static(id="message")
        yield Footer()

    def on_load(self) -> None:
        """Before the terminal is taken: who ends this, however, gets it back as it was."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            # Who ignores one of them, as nohup does, means it.
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        status = SIGNALLED + number
        if not _has_terminal():
            # There is nothing to be put right, and what is written would be waited for for ever.
            os._exit(status)
        self.exit(return_code=status)

    def on_mount(self) -> None:
        self.query_one(DataTable).focus()
        self.set_interval(self._interval_s, self._look)
        self._look()

    # Looking --------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._stop(signal.SIGHUP)  # of which nobody is told who ignores it
        # One at a time: a pool that takes longer to read than the interval is read less often.
        if not self._is_looking:
            self._is_looking = True
            self.run_worker(partial(self._read, self._state), group="look", thread=True)

    def _read(self, state: State) -> None:
        try:
            snapshot = self._survey.snapshot()
            tasks = self._survey.tasks(state, _TASKS_SHOWN)
        except (TaskPoolError, OSError) as error:
            self.call_from_thread(self._say, _reason(error), True)
        else:
            self.call_from_thread(self._show, state, snapshot, tasks)
        finally:
            self.call_from_thread(self._looked, state)

    def _looked(self, state: State) -> None:
        self._is_looking = False
        if state != self._state:
            self._look()

    def _show(self, state: str, snapshot: Snapshot, tasks: list[dict[str, Any]]) -> None:
        self._paused = snapshot.paused is not None
        figures = Text(self._pool_name, "bold")
        for row in summary(snapshot):
            figures.append(f"\n{row.name:<15}", "cyan").append(f"{row.value}  ")
            figures.append(row.note, "dim")
        self.query_one("#summary", Static).update(figures)
        if state == self._state:
            self._fill(tasks, snapshot.holdings)

    def _fill(self, tasks: list[dict[str, Any]], holdings: Sequence[Holding] = ()) -> None:
        table = self.query_one(DataTable)
        chosen = self._chosen()
        self._tasks = tasks
        table.clear(columns=True)
        table.add_columns(*_COLUMNS[self._state])
        ends = {(claim.task_id, claim.agent_id): claim.ended for claim in holdings}
        for task in tasks:
            ended = ends.get((f"{task.get('task_id')}", f"{fields.holder(task)}"))
            table.add_row(*(Text(cell) for cell in _cells(self._state, task, ended)))
        for row, task in enumerate(tasks):
            if chosen is not None and task.get("task_id") == chosen.get("task_id"):
                table.move_cursor(row=row, animate=False)

    def _chosen(self) -> dict[str, Any] | None:
        row = self.query_one(DataTable).cursor_row
        return self._tasks[row] if 0 <= row < len(self._tasks) else None

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        state: State = next((s for s in layout.STATES if s == event.tab.id), layout.CLAIMED)
        # The first tab is also said to be activated when it has been shown already.
        if state != self._state:
            self._state = state
            self._fill([])
            self._look()

    # Acting ---------------------------------------------------------------------------------------

    def action_next_state(self) -> None:
        self.query_one(Tabs).action_next_tab()

    def action_show(self) -> None:
        if isinstance(self.screen, Dialog):
            self.pop_screen()
        elif (task := self._chosen()) is not None:
            text = json.dumps(told(task), indent=2, ensure_ascii=False)
            self.push_screen(Dialog(_name(task), text))

    def action_why(self) -> None:
        if (task := self._chosen()) is not None:
            self._do(
                lambda: self._pool.why(task["task_id"]),
                lambda sentence: self.push_screen(Dialog(_name(task), one_line(sentence))),
            )

    def action_release(self) -> None:
        task = self._chosen()
        if task is None or self._state != layout.CLAIMED:
            self._say("only a claimed task can be released", True)
            return
        agent_id = fields.holder(task)
        shown = one_line(f"{agent_id}")

        def release(confirmed: bool | None) -> None:
            if confirmed:
                token = task.get("claim_token")
                self._do(
                    lambda: self._pool.release(task["task_id"], agent_id, token=token),
                    lambda _: self._say(f"released {_name(task)}"),
                )

        since = ago(task.get("claimed_at"))
        question = f"{shown} has had it for {since}, and may be at work on it. Release it?"
        self.push_screen(Dialog(_name(task), question, asks=True), release)

    def action_retry(self) -> None:
        task = self._chosen()
        if task is None or self._state != layout.FAILED:
            self._say("only a failed task can be retried", True)
            return
        self._do(
            lambda: self._pool.retry_failed(task["task_id"]),
            lambda _: self._say(f"{_name(task)} can be claimed again"),
        )

    def action_pause(self) -> None:
        if self._paused:
            self._do(self._pool.resume, lambda _: self._say("agents can claim again"))
        else:
            self._do(self._pool.pause, lambda _: self._say("paused: nothing can be claimed"))

    def _do(self, verb: Callable[[], Any], then: Callable[[Any], object]) -> None:
        """Call a verb, and show what came of it."""

        def do() -> None:
            try:
                result = verb()
            except (TaskPoolError, OSError) as error:
                self.call_from_thread(self._say, _reason(error), True)
                return
            self.call_from_thread(then, result)
            self.call_from_thread(self._look)

        self.run_worker(do, group="do", thread=True)

    def _say(self, text: str, wrong: bool = False) -> None:
        said = Text(f"{time.strftime('%H:%M:%S')} {one_line(text)}", "red" if wrong else "")
        self.query_one("#message", Static).update(said)


class Dialog(ModalScreen[bool]):
    """A text over the rest of the screen; perhaps a question."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,s,n", "dismiss(False)", "close", priority=True),
        Binding("y", "yes", "yes"),
    ]

    def __init__(self, title: str, text: str, asks: bool = False) -> None:
        super().__init__()
        self._heading, self._content, self._asks = title, text, asks

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._heading), classes="title")
            with VerticalScroll():
                yield Static(Text(self._content))
            yield Static(Text("y: yes   n: no" if self._asks else "q: close"), classes="keys")

    def action_yes(self) -> None:
        if self._asks:
            self.dismiss(True)


def _has_terminal() -> bool:
    """Whether it is still there: somebody may have closed its window."""
    try:
        termios.tcgetattr(0)
    except termios.error:
        return False
    return True


def _cells(state: str, task: Mapping[str, Any], ended: str | None) -> tuple[str, ...]:
    task_id, attempts = _name(task), f"{fields.attempts(task) or ''}"
    if state == layout.CLAIMED:
        held, until_s = ago(task.get("claimed_at")), fields.moment(task, "lease_expires_at")
        left = ended or lease(None if until_s is None else until_s - time.time())
        holder = one_line(f"{fields.holder(task)}")
        return task_id, holder, held, left, attempts, _cut(first_line(task.get("description", "")))
    if state == layout.AVAILABLE:
        waited = ago(fields.published(task))
        priority = _cut(task.get("priority", ""))
        return task_id, priority, waited, attempts, _cut(first_line(task.get("description", "")))
    if state == layout.FAILED:
        return task_id, f"{ago(task.get('failed_at'))} ago", attempts, _cut(last_error(task))
    completed_s, claimed_s = fields.moment(task, "completed_at"), fields.moment(task, "claimed_at")
    took = "-" if completed_s is None or claimed_s is None else length(completed_s - claimed_s)
    holder = one_line(f"{fields.holder(task)}")
    return task_id, holder, f"{ago(completed_s)} ago", took, _cut(task.get("result"))


def _name(task: Mapping[str, Any]) -> str:
    return _cut(task.get("task_id"))


def _cut(value: object) -> str:
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _reason(error: TaskPoolError | OSError) -> str:
    return sentence_of(error) if isinstance(error, TaskPoolError) else os_error_text(error)
