"""`fastclaim serve-metrics`: what Prometheus reads is what the pool did."""

from __future__ import annotations

import fcntl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fastclaim import AlreadyClaimed, LockTimeout, TaskPool

from .agents import agent
from .commands import COMMAND, DEADLINE_S, environment, python_path, refusal

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool with two tasks."""
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a", created_at=time.time() - 10)
    pool.publish("b")
    return Path(pool.base_dir)


@pytest.fixture
def serve(base: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``fastclaim serve-metrics``; ended with the test."""
    started = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "serve-metrics", "--pool", str(base), *map(str, arguments)],
            env=environment(),
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        process.communicate()


def scraped(url: str) -> dict[str, float]:
    """What is served, by name and labels."""
    request = urllib.request.Request(url, headers=OPENMETRICS)
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
        return values(response.read().decode())


def values(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_states_claims_and_times_are_served(serve, base):
    process = serve("--port", 0)
    url = process.stdout.readline().strip()
    pool = TaskPool(base)
    pool.claim("a", "x")
    pool.claim("b", "x").complete()
    # What has happened is told after it was done: sooner or later.
    while (found := scraped(url))["fastclaim_completions_total"] < 1:
        pass
    assert found["fastclaim_tasks{available}"] == 0
    assert found["fastclaim_tasks{claimed}"] == 1
    assert found["fastclaim_tasks{completed}"] == 1
    assert found["fastclaim_agents"] == 1
    assert found["fastclaim_claims_total"] == 2
    assert found["fastclaim_claim_seconds_count"] == 1
    assert found["fastclaim_paused"] == 0


def test_a_claim_that_meets_another_one_is_a_conflict(serve, base):
    pool = TaskPool(base)
    pool.claim("a", "x")
    with pytest.raises(AlreadyClaimed):
        pool.claim("a", "before")
    url = serve("--port", 0).stdout.readline().strip()
    assert scraped(url)["fastclaim_conflicts_total"] == 0
    with pytest.raises(AlreadyClaimed):
        pool.claim("a", "late")
    with open(pool.available_dir / "b.json") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockTimeout):
            pool.claim("b", "x", timeout=0)
    pool.claim("b", "x")
    assert scraped(url)["fastclaim_conflicts_total"] == 2


def test_a_file_is_written_for_node_exporter(serve, base, tmp_path):
    file = tmp_path / "fastclaim.prom"
    serve("--textfile", file, "--interval", "0.01")
    pool = TaskPool(base)
    late_s = time.monotonic() + DEADLINE_S
    while not file.exists():
        assert time.monotonic() < late_s
    pool.claim("a", "x")
    while "fastclaim_claims_total 1.0" not in file.read_text():
        assert time.monotonic() < late_s
    assert 'fastclaim_tasks{state="claimed"} 1.0' in file.read_text()


def test_a_port_that_is_taken_is_said(serve, base):
    url = serve("--port", 0).stdout.readline().strip()
    port = url.rpartition(":")[2].partition("/")[0]
    said = f"127.0.0.1:{port}: Address already in use"
    assert refusal("serve-metrics", "--port", port, "--pool", base) == (7, said)


def test_an_address_that_is_not_this_hosts_is_named(base):
    status, line = refusal("serve-metrics", "--address", "192.0.2.1", "--pool", base)
    assert (status, line) == (7, "192.0.2.1:9464: Cannot assign requested address")


def test_an_address_with_colons_is_served_and_named_in_brackets(serve, base):
    url = serve("--port", 0, "--address", "::1").stdout.readline().strip()
    if not url:
        pytest.skip("no IPv6 here")
    assert url.startswith("http://[::1]:")
    assert scraped(url)["fastclaim_agents"] == 0


@pytest.mark.parametrize(
    ("given", "problem"),
    [("nowhere/f.prom", "No such file or directory"), ("pool", "Is a directory")],
)
def test_a_file_that_cannot_be_written_is_named_as_it_was_given(base, tmp_path, given, problem):
    file = tmp_path / given
    said = f"{file}: {problem}"
    assert refusal("serve-metrics", "--textfile", file, "--pool", base) == (7, said)


@pytest.mark.parametrize("time", ["0", "0s", "1e-999"])
@pytest.mark.parametrize("command", ["serve-metrics", "watch"])
def test_an_interval_of_no_time_is_refused(base, command, time):
    status, line = refusal(command, "--interval", time, "--pool", base)
    assert status == 2
    assert f"argument --interval: '{time}' is no time at all; it must be more than 0" in line


def test_an_agent_whose_claims_have_ended_holds_no_task(serve, base):
    pool = TaskPool(base)
    pool.claim("a", "alive", bind=False)
    with agent(lambda: pool.claim("b", "dead")) as holder:
        holder.kill()
    found = scraped(serve("--port", 0).stdout.readline().strip())
    assert found["fastclaim_tasks{claimed}"] == 2
    assert found["fastclaim_agents"] == 1


def test_without_prometheus_client_it_says_what_to_install(base, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not installed')")
    status, line = refusal("serve-metrics", "--pool", base, PYTHONPATH=python_path(tmp_path))
    assert status == 2
    assert "fastclaim[metrics]" in line
