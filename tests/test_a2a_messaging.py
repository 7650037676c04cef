"""Messages: each is received once and whole, and no name leads out of the base directory."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
from pathlib import Path
from typing import IO, Any

import pytest

import fastclaim.messaging
from fastclaim import InvalidName, layout
from fastclaim.messaging import A2AMessage, FileBasedMessaging

from .dying import deaths

RECEIVERS, MESSAGES = 4, 200
NAMES_THAT_ARE_NO_NAMES = ["", ".", "..", "../x", "/x", "a/b", "nul\0", "x" * 256, "\ud800"]


@pytest.fixture(autouse=True)
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base_dir = tmp_path / "outside" / "base"
    monkeypatch.setenv("A2A_BASE_DIR", str(base_dir))
    return base_dir


@pytest.fixture
def alice() -> FileBasedMessaging:
    return FileBasedMessaging("alice")


@pytest.fixture
def bob() -> FileBasedMessaging:
    return FileBasedMessaging("bob")


def a_message(to_agent: str = "bob", id: str = "m1", **fields: Any) -> A2AMessage:
    whole = {
        "from_agent": "alice",
        "message_type": "status",
        "payload": {"text": "ä\n%s \ud800", "number": 1e300},
        "timestamp": 12.5,
    }
    return A2AMessage(id=id, to_agent=to_agent, **(whole | fields))


def files_under(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def temporary_files(directory: Path) -> list[Path]:
    return list(directory.rglob(f"*{layout.TEMPORARY_SUFFIX}"))


# Sending and receiving ----------------------------------------------------------------------------


def test_a_message_is_received_as_it_was_sent_and_only_once(
    alice: FileBasedMessaging, bob: FileBasedMessaging
) -> None:
    message = a_message(reply_to="m0")
    assert alice.send_message(message) is True
    assert bob.receive_messages() == [message]
    assert bob.receive_messages() == []


def test_its_file_is_where_the_original_has_it(alice: FileBasedMessaging, base_dir: Path) -> None:
    message = a_message()
    alice.send_message(message)
    inbox = base_dir / "agents/bob/inbox"
    assert [path.name for path in inbox.iterdir()] == ["12.5_alice_m1.json"]
    assert (inbox / "12.5_alice_m1.json").read_text() == message.to_json()
    bob = FileBasedMessaging("bob")
    bob.receive_messages()
    assert A2AMessage.from_json((inbox / "processed/12.5_alice_m1.json").read_text()) == message


def test_the_directories_are_there_from_the_beginning(base_dir: Path) -> None:
    messaging = FileBasedMessaging("bob")
    assert messaging.agent_id == "bob"
    assert messaging.agent_dir == base_dir / "agents/bob"
    assert messaging.inbox_dir == base_dir / "agents/bob/inbox"
    assert messaging.outbox_dir == base_dir / "agents/bob/outbox"
    assert messaging.inbox_dir.is_dir()
    assert messaging.outbox_dir.is_dir()


def test_messages_come_in_the_order_of_their_time(
    alice: FileBasedMessaging, bob: FileBasedMessaging
) -> None:
    for time_s in (1700000003.25, 1700000001.5, 1700000002.0):
        alice.send_message(a_message(id="m", timestamp=time_s))
    times = [message.timestamp for message in bob.receive_messages()]
    assert times == [1700000001.5, 1700000002.0, 1700000003.25]


def test_a_broadcast_reaches_all_but_the_sender(alice: FileBasedMessaging) -> None:
    others = [FileBasedMessaging(name) for name in ("bob", "carol")]
    assert alice.send_message(a_message("broadcast")) is True
    for other in others:
        assert other.receive_messages() == [a_message(other.agent_id)]
    assert alice.receive_messages() == []


def test_a_broadcast_to_nobody_is_not_sent(alice: FileBasedMessaging, base_dir: Path) -> None:
    assert alice.send_message(a_message("broadcast")) is False


def test_one_broken_inbox_does_not_end_a_broadcast(
    alice: FileBasedMessaging, base_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receivers = [FileBasedMessaging(name) for name in ("a", "b", "c")]
    for directory in (receivers[1].inbox_dir, receivers[1].outbox_dir):
        directory.rmdir()
    receivers[1].inbox_dir.touch()
    assert alice.send_message(a_message("broadcast")) is True
    assert [len(receiver.receive_messages()) for receiver in receivers] == [1, 0, 1]
    assert logging.ERROR in [line.levelno for line in caplog.records]


def test_an_inbox_that_has_gone_holds_nothing(bob: FileBasedMessaging) -> None:
    bob.inbox_dir.rmdir()
    assert bob.receive_messages() == []


# Several at once ----------------------------------------------------------------------------------


def receive_all(barrier: Any, received: Path) -> None:
    bob = FileBasedMessaging("bob")
    barrier.wait()
    while any(bob.inbox_dir.glob("*.json")):
        with received.open("a") as ids:
            ids.writelines(f"{message.id}\n" for message in bob.receive_messages())


def test_several_processes_that_receive_for_one_agent_get_each_message_once(
    alice: FileBasedMessaging, tmp_path: Path
) -> None:
    ids = [f"m{number}" for number in range(MESSAGES)]
    for id in ids:
        alice.send_message(a_message(id=id))
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(RECEIVERS)
    files = [tmp_path / f"received-{number}" for number in range(RECEIVERS)]
    processes = [spawn.Process(target=receive_all, args=(barrier, file)) for file in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    got = [id for file in files if file.exists() for id in file.read_text().split()]
    assert sorted(got) == sorted(ids)


def test_who_is_overtaken_between_reading_and_taking_gets_nothing(
    alice: FileBasedMessaging, bob: FileBasedMessaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.send_message(a_message())
    read_whole = fastclaim.messaging.read_whole
    overtaker = []

    def read_and_be_overtaken(path: Path) -> str:
        text = read_whole(path)
        monkeypatch.setattr(fastclaim.messaging, "read_whole", read_whole)
        overtaker.extend(bob.receive_messages())
        return text

    monkeypatch.setattr(fastclaim.messaging, "read_whole", read_and_be_overtaken)
    assert bob.receive_messages() == []
    assert overtaker == [a_message()]


def test_what_cannot_be_taken_is_not_returned(
    alice: FileBasedMessaging, bob: FileBasedMessaging
) -> None:
    alice.send_message(a_message())
    (bob.inbox_dir / "processed").touch()
    assert bob.receive_messages() == []
    (bob.inbox_dir / "processed").unlink()
    assert bob.receive_messages() == [a_message()]


def test_a_senders_death_leaves_a_message_or_none(
    alice: FileBasedMessaging, bob: FileBasedMessaging, base_dir: Path
) -> None:
    message = a_message(payload={"text": "x" * 10_000})
    outcomes = []
    for _ in deaths(lambda: alice.send_message(message)):
        received = bob.receive_messages()
        assert received in ([], [message])
        outcomes.append(len(received))
        assert temporary_files(base_dir) == []
    assert set(outcomes) == {0, 1}


def test_a_receivers_death_leaves_the_message_in_one_place(
    alice: FileBasedMessaging, bob: FileBasedMessaging
) -> None:
    message = a_message()
    processed = bob.inbox_dir / "processed"
    alice.send_message(message)
    for _ in deaths(bob.receive_messages):
        waiting = [path.name for path in bob.inbox_dir.glob("*.json")]
        taken = [path.name for path in processed.glob("*.json")] if processed.exists() else []
        assert waiting + taken == ["12.5_alice_m1.json"]
        if taken:
            (processed / taken[0]).rename(bob.inbox_dir / taken[0])


def test_a_message_that_is_being_written_is_not_swept_away(
    alice: FileBasedMessaging, bob: FileBasedMessaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = fastclaim.whole_file._rename
    seen = []

    def receive_then_rename(file: IO[bytes], temporary: Path, path: Path) -> None:
        seen.append((bob.receive_messages(), temporary.exists()))
        rename(file, temporary, path)

    monkeypatch.setattr(fastclaim.whole_file, "_rename", receive_then_rename)
    assert alice.send_message(a_message()) is True
    assert seen == [([], True)]


def test_a_message_whose_temporary_file_was_swept_away_is_written_anew(
    alice: FileBasedMessaging, bob: FileBasedMessaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fastclaim.whole_file.try_flock
    swept = []

    def sweep_before_flock(descriptor: int) -> bool:
        monkeypatch.setattr(fastclaim.whole_file, "try_flock", flock)
        bob.receive_messages()
        swept.append(os.fstat(descriptor).st_nlink == 0)
        return flock(descriptor)

    monkeypatch.setattr(fastclaim.whole_file, "try_flock", sweep_before_flock)
    assert alice.send_message(a_message()) is True
    assert swept == [True]
    assert bob.receive_messages() == [a_message()]


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("agent_id", NAMES_THAT_ARE_NO_NAMES)
def test_an_agent_id_that_is_no_name_is_refused_by_type(agent_id: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        FileBasedMessaging(agent_id)
    assert files_under(tmp_path) == set()


def test_an_agent_id_that_is_no_string_is_refused_as_by_the_original() -> None:
    with pytest.raises(TypeError):
        FileBasedMessaging(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("to_agent", NAMES_THAT_ARE_NO_NAMES)
def test_a_receiver_that_is_no_name_gets_nothing(
    to_agent: str, alice: FileBasedMessaging, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_under(tmp_path)
    assert alice.send_message(a_message(to_agent)) is False
    assert [(line.levelno, line.agent_id) for line in caplog.records] == [(logging.ERROR, "alice")]
    assert files_under(tmp_path) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"from_agent": "../../x"},
        {"id": "/x"},
        {"id": "nul\0"},
        {"id": "x" * 256},
        {"timestamp": "../../../x"},
        {"payload": {"path": Path()}},
        {"payload": {1, 2}},
    ],
)
def test_a_message_that_cannot_be_a_file_leaves_nothing(
    fields: dict[str, Any], alice: FileBasedMessaging, tmp_path: Path
) -> None:
    before = files_under(tmp_path)
    assert alice.send_message(a_message(**fields)) is False
    assert files_under(tmp_path) == before


def test_a_sender_whose_name_looks_like_a_parent_stays_in_the_inbox(
    bob: FileBasedMessaging,
) -> None:
    assert bob.send_message(a_message(from_agent="..", id="..")) is True
    assert len(bob.receive_messages()) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"id": "m"}', '{"more": 1}', "[" * 10**5])
def test_what_is_no_message_stays_and_does_not_hide_the_others(
    content: str,
    alice: FileBasedMessaging,
    bob: FileBasedMessaging,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (bob.inbox_dir / "1_malformed.json").write_text(content)
    alice.send_message(a_message())
    caplog.clear()
    assert bob.receive_messages() == [a_message()]
    assert (bob.inbox_dir / "1_malformed.json").read_text() == content
    assert [line.levelno for line in caplog.records] == [logging.ERROR]


def test_what_is_no_regular_file_neither_hangs_nor_misleads(
    alice: FileBasedMessaging, bob: FileBasedMessaging, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(a_message().to_json())
    os.mkfifo(bob.inbox_dir / "fifo.json")
    (bob.inbox_dir / "directory.json").mkdir()
    (bob.inbox_dir / "link.json").symlink_to(elsewhere)
    (bob.inbox_dir / "device.json").symlink_to("/dev/zero")
    planted = files_under(bob.inbox_dir)
    assert bob.receive_messages() == []
    assert files_under(bob.inbox_dir) - {"processed"} == planted


def test_nothing_is_written_through_a_planted_symlink(
    alice: FileBasedMessaging, bob: FileBasedMessaging, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (bob.inbox_dir / "12.5_alice_m1.json").symlink_to(target)
    assert alice.send_message(a_message()) is True
    assert target.read_text() == "untouched"
    assert bob.receive_messages() == [a_message()]


def test_the_mode_of_a_message_follows_the_umask(
    alice: FileBasedMessaging, bob: FileBasedMessaging
) -> None:
    umask = os.umask(0o027)
    try:
        alice.send_message(a_message())
    finally:
        os.umask(umask)
    (file,) = bob.inbox_dir.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_messages_of_an_original_are_received(bob: FileBasedMessaging) -> None:
    fields = vars(a_message()) | {"payload": {"text": "plain"}}
    (bob.inbox_dir / "1.0_a_b.json").write_text(json.dumps(fields, indent=2))
    assert bob.receive_messages() == [A2AMessage(**fields)]
