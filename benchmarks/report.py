"""The tables, from what `compare.py --json` writes: the Markdown can be made again from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aims
from comparison import LARGEST_SIDE_BY_SIDE

BASE = "original"  # whose figures the ratios are to
FASTER_IS_MORE = "tasks/s"


def markdown(comparison: dict[str, Any]) -> Iterator[str]:
    """The report, line by line."""
    yield from _header(comparison)
    for place in comparison["places"]:
        yield ""
        yield f"## {place['name']}: {place['unusable'] or place['description']}"
        results = [one for one in comparison["results"] if one["place"] == place["name"]]
        workloads = dict.fromkeys(one["workload"] for one in results)
        for workload in workloads:
            yield ""
            yield from _table(workload, [one for one in results if one["workload"] == workload])
    yield ""
    yield "## Aims"
    yield ""
    yield from aims.table(comparison["results"], comparison["places"])
    yield from _counts(comparison)
    yield from _left_out(comparison)


def _header(comparison: dict[str, Any]) -> Iterator[str]:
    yield f"`{comparison['command']}`"
    yield ""
    yield f"{comparison['machine']}; load {comparison['load']}."
    yield ""
    yield (
        "Medians over rounds in which every peer does the same, in an order that changes from round"
        " to round, each time in a fresh store; garbage collection off. (n x): times faster than"
        f" {BASE}. Every peer is called from Python. (Pools of more than {LARGEST_SIDE_BY_SIDE:,}"
        " tasks are measured one peer after the other: there is no room for all.)"
    )
    yield ""
    yield "| peer | a claim that has returned survives | the task of a claimer that dies | holder |"
    yield "|---|---|---|---|"
    for peer in comparison["peers"]:
        holder = "recorded" if peer["says_who"] else "not recorded"
        yield f"| {peer['name']} | {peer['claim_survives']} | {peer['dead_claimer']} | {holder} |"
    yield ""
    yield (
        "On a tmpfs nothing survives a power cut. * The record in the task's file is on the disk;"
        " the rename that goes with it is there with the file system's next commit (fastclaim's"
        ' durability "full" waits for that, too).'
    )
    yield ""
    for peer in comparison["peers"]:
        note = f": {peer['note']}" if peer["note"] else ""
        yield f" - **{peer['name']}** ({peer['version']}){note}"


def _table(workload: str, results: list[dict[str, Any]]) -> Iterator[str]:
    figures = list(dict.fromkeys(one["figure"] for one in results))
    peers = list(dict.fromkeys(one["peer"] for one in results))
    cells = {(one["peer"], one["figure"]): one for one in results}
    yield f"| {workload}, {results[0]['unit']} | " + " | ".join(figures) + " |"
    yield "|---|" + "---:|" * len(figures)
    for peer in peers:
        row = [_cell(cells.get((peer, figure)), cells.get((BASE, figure))) for figure in figures]
        yield f"| {peer} | " + " | ".join(row) + " |"


def _cell(one: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    wrong = " ".join(f"**{one[what]} {what}**" for what in ("doubles", "lost") if one[what])
    figure = f"{significant(one['median'])} {wrong}".strip()
    if base is None or one is base:
        return figure
    times = base["median"] / one["median"]
    return f"{figure} ({1 / times if one['unit'] == FASTER_IS_MORE else times:.1f} x)"


def significant(value: float) -> str:
    """Three digits, and the whole number where there are more."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _counts(comparison: dict[str, Any]) -> Iterator[str]:
    yield ""
    wrong = [one for one in comparison["results"] if one["doubles"] or one["lost"]]
    yield (
        "Duplicates and losses, counted from what the workers returned:"
        + (" none but these." if wrong else " none.")
    )
    for one in wrong:
        yield (
            f" - {one['place']}, {one['workload']}, {one['figure']}: {one['peer']} handed out"
            f" {one['doubles']} twice and lost {one['lost']}, in {len(one['rounds'])} rounds"
        )


def _left_out(comparison: dict[str, Any]) -> Iterator[str]:
    for one in comparison["left_out"]:
        yield f" - Left out: {one['peer']}: {one['reason']}"
    for one in comparison["failures"]:
        yield f" - Failed: {one['place']}, {one['workload']}, {one['peer']}: {one['error']}"
    yield ""
    yield f"Load at the end: {comparison['load_at_the_end']}."
