"""`fastclaim serve-metrics`: what a pool does, for Prometheus.

Gauges are taken when somebody asks. Counters and histograms count the state changes that inotify
tells of from the start of this command on; an exporter that was restarted begins at 0, as counters
may.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .. import layout, owners
from ..pool import TaskPool
from . import exits, options, state_changes
from .follower import Follower
from .intervals import interval
from .state_changes import Change
from .stopping import EndOfWait
from .survey import Snapshot, Survey

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

DEFAULT_PORT: Final = 9464
_DEFAULT_ADDRESS: Final = "127.0.0.1"
_DEFAULT_INTERVAL_S: Final = 15.0
# From a claim that is given back at once to an agent that works for hours.
_BUCKETS_S: Final = (0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)

_COUNTERS: Final = {
    state_changes.PUBLISHED: ("publications", "Tasks that were published"),
    state_changes.CLAIMED: ("claims", "Claims that were won"),
    state_changes.COMPLETED: ("completions", "Tasks that were completed"),
    state_changes.RELEASED: ("releases", "Claims that were given back"),
    state_changes.FAILED: ("failures", "Attempts that failed"),
    state_changes.RECOVERED: ("recoveries", "Claims that were taken back from agents that died"),
    state_changes.RETRIED: ("retries", "Failed tasks that were made available again"),
    state_changes.REMOVED: ("removals", "Tasks whose file was removed"),
    state_changes.LOST: ("lost_events", "Times that changes were missed, there being too many"),
}


def add_serve_metrics_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--port",
        metavar="N",
        type=options.whole(0, 65535),
        default=DEFAULT_PORT,
        help=f"where to serve /metrics; 0: any that is free; default: {DEFAULT_PORT}",
    )
    parser.add_argument(
        "--address",
        default=_DEFAULT_ADDRESS,
        help=f"on which of this host's addresses; default: {_DEFAULT_ADDRESS}",
    )
    parser.add_argument(
        "--textfile",
        metavar="FILE.prom",
        help="instead of serving, write this file again and again, for node_exporter's collector",
    )
    parser.add_argument(
        "--interval",
        metavar="S",
        type=interval,
        default=_DEFAULT_INTERVAL_S,
        help=f"how often to write the file; default: {_DEFAULT_INTERVAL_S:.0f}",
    )
    options.add_pool(parser)


def run_serve_metrics(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.directory_pool(arguments)
    try:
        from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
    except ImportError as error:
        raise exits.BadInput("this needs prometheus_client: install fastclaim[metrics]") from error
    registry = CollectorRegistry()
    # What else ends it, the kernel does.
    with EndOfWait([signal.SIGINT]), Follower(pool.tasks_dir) as follower:
        counters = _Counters(registry)
        registry.register(_Gauges(pool))
        registry.register(_Conflicts(pool))
        if arguments.textfile is None:
            with _naming(_place(arguments.address, arguments.port)):
                server, _ = start_http_server(arguments.port, arguments.address, registry)
            where = _place(arguments.address, server.server_port)
            print(f"http://{where}/metrics", flush=True)
        next_s = time.monotonic()
        while True:
            patience_s = None
            if arguments.textfile is not None:
                if time.monotonic() >= next_s:
                    with _naming(arguments.textfile):
                        write_to_textfile(arguments.textfile, registry)
                    next_s = time.monotonic() + arguments.interval
                patience_s = max(0.0, next_s - time.monotonic())
            for change in follower.wait(patience_s):
                counters.count(change)


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Let an error name what was asked for: not the temporary file beside it, nor nothing."""
    try:
        yield
    except OSError as error:
        if error.filename is None or f"{error.filename}".startswith(what):
            error.filename = what
        raise


class _Counters:
    """What has happened since the command began."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Histogram

        self._totals = {
            event: Counter(f"fastclaim_{name}", text, registry=registry)
            for event, (name, text) in _COUNTERS.items()
        }
        self._held = Histogram(
            "fastclaim_claim_seconds",
            "How long tasks were held, until they were completed or given back",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._waited = Histogram(
            "fastclaim_wait_seconds",
            "How long tasks had been published when they were claimed",
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def count(self, change: Change) -> None:
        """Take one more change into account."""
        if change.event in self._totals:
            self._totals[change.event].inc()
        if change.held_s is not None:
            self._held.observe(change.held_s)
        if change.waited_s is not None:
            self._waited.observe(change.waited_s)


class _Conflicts:
    """Claims that met another one of their task, as the claimers tell in their owner files.

    Who comes too late and only finds the task gone does not know why, and tells nothing.
    """

    def __init__(self, pool: TaskPool) -> None:
        self._owners = os.path.join(pool.tasks_dir, layout.OWNERS)
        self._lock = threading.Lock()
        self._told = self._read()
        self._total = 0

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        with self._lock:
            told = self._read()
            for name, number in told.items():
                self._total += max(0, number - self._told.get(name, 0))
            self._told = told
            total = self._total
        text = "Claims that met another claim of the same task"
        yield CounterMetricFamily("fastclaim_conflicts", text, value=total)

    def _read(self) -> dict[str, int]:
        try:
            names = os.listdir(self._owners)
        except FileNotFoundError:
            return {}
        return {
            name: owners.conflicts_told(os.path.join(self._owners, name))
            for name in names
            if name.endswith(layout.OWNER_SUFFIX)
        }


class _Gauges:
    """How the pool is doing, taken when it is collected."""

    def __init__(self, pool: TaskPool) -> None:
        self._survey = Survey(pool)
        # Two may ask at once, each in a thread of its own.
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        with self._lock:
            snapshot = self._survey.snapshot()
        tasks = GaugeMetricFamily("fastclaim_tasks", "Tasks in each state", labels=["state"])
        for state, number in snapshot.counts.items():
            tasks.add_metric([state], number)
        yield tasks
        for name, text, value in _figures(snapshot):
            yield GaugeMetricFamily(f"fastclaim_{name}", text, value=value)


def _figures(snapshot: Snapshot) -> Iterator[tuple[str, str, float]]:
    oldest_s = 0.0 if snapshot.oldest is None else snapshot.oldest.waited_s
    longest_s = max((holding.held_s or 0.0 for holding in snapshot.holdings), default=0.0)
    standing = {holding.agent_id for holding in snapshot.holdings if holding.ended is None}
    yield "agents", "Agents that hold a task", len(standing)
    yield "oldest_waiting_seconds", "Since when the oldest waiting task is published", oldest_s
    yield "longest_claim_seconds", "How long the oldest claim has stood", longest_s
    yield "paused", "1 if nothing can be claimed for now", float(snapshot.paused is not None)
