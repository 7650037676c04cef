"""Every order in which the file-system calls of a few processes can follow each other.

Each scenario is run again and again, with the calls in another order and with deaths at other
places, until there is no order left that leads anywhere new: two orders that end with the same
files, and with processes that have seen the same, have the same future, and only one of them is
followed. ``FASTCLAIM_INTERLEAVINGS=all`` runs the scenarios that take minutes, too.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastclaim import (
    AlreadyClaimed,
    Claim,
    ClaimLost,
    LockTimeout,
    TaskNotAvailable,
    TaskPool,
    _transition_py,
    owners,
    tokens,
)

from .stepping import NOW_NS, Actor, Seam, Tempfile, _real

TASK = {"task_id": "x", "description": "once"}
STATES = ("available", "claimed", "completed", "failed", "owners")
LONG = os.environ.get("FASTCLAIM_INTERLEAVINGS") == "all"


class Scenario(NamedTuple):
    """Who is there at first, and what they do.

    Attributes
    ----------
    start : str
        What the task is: a method of `Run`.
    actors : tuple of str
        What each does: methods of `Run`.
    deaths : int
        How many of them may die.
    lock_files : bool
        Whether the original's lock files are taken.
    same_agent : bool
        Whether all claim for one agent.
    """

    start: str
    actors: tuple[str, ...]
    deaths: int
    lock_files: bool = False
    same_agent: bool = False


SHORT_SCENARIOS = {
    "two claimers": Scenario("waiting", ("completer", "releaser"), 2),
    "two claimers with lock files": Scenario("waiting", ("completer", "completer"), 2, True),
    "two claimers of a foreign task": Scenario("foreign", ("completer", "releaser"), 1),
    "two claimers of one name": Scenario("waiting", ("completer", "releaser"), 1, False, True),
    "three claimers": Scenario("waiting", ("completer",) * 3, 0),
    "a claimer and a recoverer": Scenario("waiting", ("completer", "recoverer"), 2, True),
    "the same, of a dead owner's": Scenario("of_the_dead", ("completer", "recoverer"), 2),
    "the same, of half a claim": Scenario("half_claimed", ("completer", "recoverer"), 2),
    "the same, of half a completion": Scenario("half_completed", ("completer", "recoverer"), 2),
    "two recoverers of a dead owner's": Scenario("of_the_dead", ("recoverer",) * 2, 2),
    "a late completion and a recoverer": Scenario("expired", ("late_completer", "recoverer"), 2),
    "a claimer and an original": Scenario("waiting", ("completer", "original"), 1, True),
    "a claimer and an original, foreign": Scenario("foreign", ("completer", "original"), 1, True),
}
LONG_SCENARIOS = {
    "three claimers, deaths": Scenario("waiting", ("completer", "releaser", "completer"), 2),
    "three claimers, lock files": Scenario("waiting", ("completer",) * 3, 1, True),
    "two claimers and a recoverer": Scenario(
        "waiting", ("completer", "releaser", "recoverer"), 1, True
    ),
    "two claimers and a recoverer, a dead owner's": Scenario(
        "of_the_dead", ("completer", "completer", "recoverer"), 1
    ),
    "two claimers and a recoverer, half a claim": Scenario(
        "half_claimed", ("completer", "completer", "recoverer"), 1
    ),
    "two claimers and an original": Scenario(
        "waiting", ("completer", "completer", "original"), 1, True
    ),
    "a claimer, a recoverer and an original": Scenario(
        "waiting", ("completer", "recoverer", "original"), 1, True
    ),
}


class Run:
    """One order of calls, as far as it has come."""

    def __init__(self, seam: Seam, base: Path, scenario: Scenario) -> None:
        self.seam, self.base, self.scenario = seam, base, scenario
        self.holders: dict[str, str | None] = {}  # by actor: the token, or None if an original's
        self.completions = 0
        self.deaths_left = scenario.deaths
        for path in self.files():
            _real["unlink"](path)
        seam.actors, seam.labels = [], {}
        self.become("setup")
        getattr(self, scenario.start)()
        for path in self.files():
            seam.labels[_real["lstat"](path).st_ino] = ("setup", len(seam.labels))
        seam.actors = [
            Actor(f"{what}{number}", getattr(self, what))
            for number, what in enumerate(scenario.actors)
        ]
        for actor in seam.actors:
            actor.run()  # to its first call

    def become(self, name: str) -> None:
        """Be another process."""
        tokens._prefix, tokens._numbers, owners._files = f"{name:0>12}", itertools.count(1), {}

    def pool(self) -> TaskPool:
        return TaskPool(
            self.base,
            durability="none",
            lock_files=self.scenario.lock_files,
            _core=_transition_py,
        )

    def files(self) -> Iterator[str]:
        for state in STATES:
            directory = os.path.join(self.base, "tasks", state)
            for name in sorted(_real["listdir"](directory)):
                yield os.path.join(directory, name)

    # What the task is at first ------------------------------------------------------------------

    def waiting(self) -> None:
        self.pool().publish(TASK)

    def foreign(self) -> None:
        path = self.base / "tasks/available/x.json"
        path.write_text(json.dumps(TASK | {"status": "available"}, indent=2))
        os.utime(path, ns=(NOW_NS - 1, NOW_NS - 1))

    def of_the_dead(self) -> None:
        self.waiting()
        self.pool().claim("x", "dead")
        for file in owners._files.values():
            file.forget()

    def half_claimed(self) -> None:
        self.waiting()
        os.rename(self.base / "tasks/available/x.json", self.base / "tasks/claimed/x_dead.json")

    def half_completed(self) -> None:
        self.of_the_dead()
        path = self.base / "tasks/claimed/x_dead.json"
        self.pool().complete("x", "dead", 1)
        os.rename(self.base / "tasks/completed/x_complete.json", path)

    def expired(self) -> None:
        self.waiting()
        self.late = self.pool().claim("x", "late", lease_s=-1.0)

    # What actors do -----------------------------------------------------------------------------

    def _claim(self, actor: Actor) -> Claim | None:
        agent = "same" if self.scenario.same_agent else actor.name
        try:
            claim = self.pool().claim("x", agent, timeout=0)
        except (AlreadyClaimed, TaskNotAvailable, LockTimeout) as refusal:
            actor.say(type(refusal))
            return None
        self.won(actor, claim.token)
        return claim

    def won(self, actor: Actor, token: str | None) -> None:
        assert not self.holders, f"{actor.name} has what {self.holders} has"
        self.holders[actor.name] = token
        actor.say("won")

    def completer(self, actor: Actor) -> None:
        claim = self._claim(actor)
        if claim is not None:
            os.stat(self.base)  # others may come before it goes on
            del self.holders[actor.name]
            with contextlib.suppress(LockTimeout):
                claim.complete(1)
                self.completed(actor)

    def completed(self, actor: Actor) -> None:
        self.completions += 1
        assert self.completions == 1
        actor.say("completed")

    def releaser(self, actor: Actor) -> None:
        claim = self._claim(actor)
        if claim is not None:
            os.stat(self.base)
            del self.holders[actor.name]
            with contextlib.suppress(LockTimeout):
                claim.release()

    def late_completer(self, actor: Actor) -> None:
        try:
            self.pool().complete("x", "late", 1, token=self.late.token)
        except (ClaimLost, LockTimeout) as refusal:
            actor.say(type(refusal))
        else:
            self.completed(actor)

    def recoverer(self, actor: Actor) -> None:
        self.pool().recover()

    def original(self, actor: Actor) -> None:
        from orchestration.a2a_integration import TaskPool as Original

        if Original().claim_task("x", actor.name, timeout=0):
            self.won(actor, None)

    # ----------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[int, bool]]:
        """Who may go on, or die (true)."""
        live = [
            number
            for number, actor in enumerate(self.seam.actors)
            if not actor.is_done and not actor.is_dead
        ]
        deaths = live if self.deaths_left else []
        return [(number, False) for number in live] + [(number, True) for number in deaths]

    def choose(self, number: int, dies: bool) -> None:
        actor = self.seam.actors[number]
        if dies:
            self.deaths_left -= 1
            self.holders.pop(actor.name, None)
            actor.die()
        else:
            actor.run()

    def state(self) -> object:
        """All that the future depends on."""
        files = tuple(
            (path, *self._file(_real["lstat"](path), Path(path).read_bytes()))
            for path in self.files()
        )
        return files, self.deaths_left, tuple(map(self._actor_state, self.seam.actors))

    def _file(self, status: os.stat_result, content: bytes) -> tuple[object, ...]:
        label = self.seam.labels.get(status.st_ino)
        return label, status.st_nlink, self.seam.time_of(status), content

    def _actor_state(self, actor: Actor) -> object:
        holds = actor.name in self.holders
        if actor.is_dead:
            return "dead"
        if actor.is_done:
            return "done", holds
        descriptors = []
        for descriptor in actor.descriptors:
            status = _real["fstat"](descriptor)
            label = self.seam.labels.get(status.st_ino)
            unnamed = ()
            if status.st_nlink == 0:
                unnamed = self._file(status, _real["pread"](descriptor, 1 << 20, 0))
            descriptors.append((descriptor if label is None else 0, label, unnamed))
        return actor.seen, holds, actor.pending[0], len(descriptors), frozenset(descriptors)

    def check(self) -> None:
        """What must hold at every moment."""
        places = self.places()
        if "original" in self.scenario.actors:
            # It claims by a copy, and then unlinks what it has copied.
            assert places
        else:
            assert len(places) == 1, places
            task = json.loads(places[0].read_text())
            assert task["description"] == "once"
        for name, token in self.holders.items():
            if token is not None:
                claims = [json.loads(place.read_text()) for place in places]
                assert [claim.get("claim_token") for claim in claims] == [token], name

    def places(self) -> list[Path]:
        """Where the task is."""
        paths = map(Path, self.files())
        return [path for path in paths if path.suffix == ".json" and path.name.startswith("x")]

    def end(self) -> None:
        """Everybody is dead, and recovery runs: nothing may be stuck."""
        self.bury()
        self.become("end")
        pool = self.pool()
        for _ in range(2):
            pool.recover(older_than=-1.0)
        states = {place.parent.name for place in self.places()}
        if "completed" in states:
            assert states == {"completed"}
        else:
            assert self.completions == 0
            pool.claim("x", "end", timeout=0).complete(1)
        for file in owners._files.values():
            file.forget()
        pool.recover()
        left = [path for path in self.files() if not path.endswith(".json")]
        originals = [path for path in left if Path(path).name.startswith("tmp")]
        assert left == originals

    def bury(self) -> None:
        for actor in self.seam.actors:
            actor.bury()
        self.seam.actors = []


class Explorer:
    """All orders of one scenario's calls, each state once."""

    def __init__(self, start: Callable[[], Run]) -> None:
        self._start = start
        self.runs = self.ends = self.states = 0

    def explore(self) -> None:
        seen: set[int] = set()
        waiting: list[tuple[tuple[int, bool], ...]] = [()]
        while waiting:
            path = waiting.pop()
            self.runs += 1
            if self.runs % 100 == 0:
                gc.collect()
            run = self._start()
            try:
                for choice in path:
                    run.choose(*choice)
                while (state := hash(run.state())) not in seen:
                    seen.add(state)
                    run.check()
                    choices = run.choices()
                    if not choices:
                        self.ends += 1
                        run.end()
                        break
                    waiting.extend((*path, choice) for choice in choices[1:])
                    path = (*path, choices[0])
                    run.choose(*choices[0])
            except Exception as error:
                error.add_note(self._told(path))
                raise
            finally:
                run.bury()
        self.states = len(seen)

    def _told(self, path: tuple[tuple[int, bool], ...]) -> str:
        """The calls on the way there."""
        run = self._start()
        lines = []
        for number, dies in path:
            actor = run.seam.actors[number]
            lines.append(f"{actor.name}: {'DIES before ' if dies else ''}{actor.pending}")
            with contextlib.suppress(Exception):
                run.choose(number, dies)
        run.bury()
        return "\n".join(lines)


@pytest.fixture
def explored(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scenario], Explorer]]:
    """Explores a scenario in a directory in memory, if there is one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as base, monkeypatch.context() as patch:
        TaskPool(base)
        (Path(base) / "tasks/owners").mkdir(exist_ok=True)
        patch.setattr(tokens, "_prefix", tokens._prefix)
        patch.setattr(tokens, "_numbers", tokens._numbers)
        patch.setattr(owners, "_files", {})
        with contextlib.suppress(ImportError):
            from orchestration import a2a_integration as integration

            patch.setattr(integration, "A2A_BASE_DIR", base)
            patch.setattr(integration, "tempfile", Tempfile())
            from .stepping import open_stepped

            patch.setattr(integration, "open", open_stepped, raising=False)
        seam = Seam(patch)
        logging.disable()
        gc.collect()
        gc.disable()  # an object that dies in the midst of another actor's call makes calls itself

        def explore(scenario: Scenario) -> Explorer:
            explorer = Explorer(lambda: Run(seam, Path(base), scenario))
            explorer.explore()
            return explorer

        yield explore
        gc.enable()
        logging.disable(logging.NOTSET)


def _parameters() -> Iterator[Any]:
    long = pytest.mark.skipif(not LONG, reason="takes minutes: FASTCLAIM_INTERLEAVINGS=all")
    for name, scenario in (SHORT_SCENARIOS | LONG_SCENARIOS).items():
        yield pytest.param(scenario, id=name, marks=long)


@pytest.mark.parametrize("scenario", list(_parameters()))
def test_in_every_order_and_death_the_task_has_one_owner_and_is_never_lost_or_stuck(
    scenario: Scenario,
    explored: Callable[[Scenario], Explorer],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "original" in scenario.actors:
        pytest.importorskip("orchestration.a2a_integration")
    explorer = explored(scenario)
    assert explorer.ends > 0
    with capsys.disabled():
        sys.stdout.write(
            f"\n{request.node.callspec.id}: {explorer.states} states, {explorer.runs} runs,"
            f" {explorer.ends} ends, all explored "
        )
