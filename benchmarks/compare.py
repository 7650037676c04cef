"""fastclaim beside its peers: each configured as its documentation says, all in the same rounds.

    python benchmarks/compare.py [--quick] [--dir DIR] [--only NAME] [--workload NAME] [--json FILE]

Prints Markdown; `--json` keeps every round's figures, from which `plots.py` draws. The peers come
with ``pip install "fastclaim[bench]"``; who cannot be had is left out, and the report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import report
from comparison import FULL, QUICK, WORKLOADS, Comparison
from machine import Place, describe_load, describe_machine, describe_place, place_at, usual_places
from peers import Fastclaim, Peer, all_peers


def main() -> int:
    """Measure, print, and return 1 if one of ours doubled, lost or failed anything."""
    arguments = _parse()
    # Some of the peers' servers are started as another user, who must get at their data.
    os.umask(0o022)
    peers, left_out = _available(all_peers(), arguments.only)
    places = [place_at(path) for path in arguments.dir] if arguments.dir else usual_places()
    comparison: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(),
        "load": describe_load(),
        "places": [_describe(place) for place in places],
        "peers": [_describe_peer(peer) for peer in peers],
        "left_out": left_out,
        "results": [],
        "failures": [],
    }
    for place in places:
        if place.unusable is None:
            rounds = Comparison(place, peers, QUICK if arguments.quick else FULL)
            found = rounds.run(arguments.workload or WORKLOADS)
            comparison["results"] += [result._asdict() for result in found]
            comparison["failures"] += [failure._asdict() for failure in rounds.failures]
    comparison["load_at_the_end"] = describe_load()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(comparison, file, indent=1, ensure_ascii=False)
            file.write("\n")
    for line in report.markdown(comparison):
        print(line)
    return 1 if _is_ours_wrong(comparison, peers) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything: under 3 minutes")
    parser.add_argument(
        "--dir",
        action="append",
        metavar="DIR",
        help="where to measure; may come several times (default: a tmpfs and $TMPDIR)",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="only peers whose name has this in it; may come several times",
    )
    parser.add_argument(
        "--workload",
        action="append",
        choices=WORKLOADS,
        help="only this one; may come several times",
    )
    parser.add_argument("--json", metavar="FILE", help="keep every round's figures there")
    return parser.parse_args()


def _available(
    peers: Sequence[Peer], only: Sequence[str] | None
) -> tuple[list[Peer], list[dict[str, str]]]:
    """Who takes part, and why others do not."""
    taking_part, left_out = [], []
    for peer in peers:
        if only and not any(name.lower() in peer.name.lower() for name in only):
            continue
        if reason := peer.unavailable():
            left_out.append({"peer": peer.name, "reason": reason})
            continue
        taking_part.append(peer)
        if not peer.has_next and peer.floor_of is None:
            reason = "has no claim_next: left out where the next task is claimed"
            left_out.append({"peer": peer.name, "reason": reason})
        if peer.reads_all:
            reason = "reads every waiting task for each: left out where teams claim the next task"
            left_out.append({"peer": peer.name, "reason": reason})
    return taking_part, left_out


def _describe(place: Place) -> dict[str, Any]:
    return {
        "name": place.name,
        "description": describe_place(place) if place.unusable is None else "",
        "is_memory": place.is_memory,
        "unusable": place.unusable,
    }


def _describe_peer(peer: Peer) -> dict[str, Any]:
    return {
        "name": peer.name,
        "version": peer.version(),
        "note": peer.note,
        **peer.guarantees._asdict(),
    }


def _is_ours_wrong(comparison: dict[str, Any], peers: Sequence[Peer]) -> bool:
    ours = {peer.name for peer in peers if isinstance(peer, Fastclaim)}
    return any(
        one["peer"] in ours and (one.get("error") or one.get("doubles") or one.get("lost"))
        for one in comparison["results"] + comparison["failures"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
