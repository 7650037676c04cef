"""Draw what `compare.py --json` has measured: SVG, one file for each question.

    python benchmarks/plots.py docs/comparison.json docs/

Needs matplotlib, from extra [bench].
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

OURS, THEIRS, ORIGINAL, FLOOR = "#1769aa", "#b0bec5", "#e07b39", "#dddddd"
LINES = {
    "original": (ORIGINAL, "-"),
    "fastclaim": (OURS, "--"),
    "fastclaim, no lock files": (OURS, "-"),
    "fastclaim, no lock files, any order": ("#64a6d8", "-"),
    "fastclaim, no lock files, any order, 64 at once": (OURS, ":"),
    "sqlite3 WAL, NORMAL": ("#6d8b3c", "-"),
    "sqlite3 WAL, FULL": ("#6d8b3c", "--"),
    "PostgreSQL SKIP LOCKED": ("#7d5ba6", "-"),
    "Redis, always": ("#b23a48", "-"),
    "bare rename": ("#999999", "-"),
}
STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, and searchable
    "svg.hashsalt": "fastclaim",  # the same figures, the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
}


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("json", type=Path, help="what compare.py --json has written")
    parser.add_argument("directory", type=Path, help="where the SVG files go")
    arguments = parser.parse_args()
    comparison = json.loads(arguments.json.read_text(encoding="utf-8"))
    places = [place for place in comparison["places"] if place["unusable"] is None]
    with plt.rc_context(STYLE):
        for name, draw in (
            ("claim", _claims),
            ("processes", _teams),
            ("pool-sizes", _pool_sizes),
            ("task-sizes", _task_sizes),
        ):
            figure = draw(comparison["results"], [place["name"] for place in places])
            path = arguments.directory / f"comparison-{name}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            print(path)


def _claims(results: list[dict[str, Any]], places: Sequence[str]) -> plt.Figure:
    """Bars: a claim by id; of the next where there are no ids."""
    figure, axes = _row_of_axes(places, height=4.2)
    for one, place in zip(axes, places, strict=True):
        by_id = _medians(results, place, "one process", "claim by id")
        next_ = _medians(results, place, "one process", "claim next")
        claims = by_id | {
            f"{peer} (next)": median for peer, median in next_.items() if peer not in by_id
        }
        peers = sorted(claims, key=lambda peer: claims[peer], reverse=True)
        one.barh(peers, [claims[peer] for peer in peers], color=[_colour(peer) for peer in peers])
        for number, peer in enumerate(peers):
            one.text(claims[peer], number, f" {claims[peer]:.3g}", va="center", fontsize=8)
        one.set_xscale("log")
        one.set_title(f"{place}: µs per claim, one process")
        _plain_numbers(one.xaxis)
    return figure


def _teams(results: list[dict[str, Any]], places: Sequence[str]) -> plt.Figure:
    """Lines: claims per second by 1, 2 and 8 processes."""
    figure, axes = _row_of_axes(places)
    for one, place in zip(axes, places, strict=True):
        workers = _lines(one, results, place, ("processes, next", "processes, by id"))
        one.set_title(f"{place}: tasks/s, claimed by so many processes")
        one.set_xscale("log", base=2)
        one.set_xticks(workers, [f"{number:g}" for number in workers])
        one.set_yscale("log")
        one.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        _plain_numbers(one.yaxis)
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _pool_sizes(results: list[dict[str, Any]], places: Sequence[str]) -> plt.Figure:
    """Lines: the next task's claim by how many wait."""
    workloads = ("pool sizes: claim next", "pool sizes: claim by id")
    return _by_size(results, places, workloads, "µs per claim, by the number of waiting tasks")


def _task_sizes(results: list[dict[str, Any]], places: Sequence[str]) -> plt.Figure:
    """Lines: a claim by the task's size."""
    workloads = ("task sizes: claim next", "task sizes: claim by id")
    return _by_size(results, places, workloads, "µs per claim, by the task's size in bytes")


def _by_size(
    results: list[dict[str, Any]], places: Sequence[str], workloads: Sequence[str], title: str
) -> plt.Figure:
    figure, axes = _row_of_axes(places)
    for one, place in zip(axes, places, strict=True):
        _lines(one, results, place, workloads)
        one.set_title(f"{place}: {title}")
        one.set_xscale("log")
        one.set_yscale("log")
        _plain_numbers(one.xaxis)
        one.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        _plain_numbers(one.yaxis)
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _lines(
    axes: Axes, results: list[dict[str, Any]], place: str, workloads: Sequence[str]
) -> list[float]:
    """A line for each peer of `LINES`: the next task's claim, or by id where it has no next."""
    every: set[float] = set()
    for peer, (colour, style) in LINES.items():
        for workload in workloads:
            points = {
                float(one["figure"].replace(",", "").removesuffix(" B")): one["median"]
                for one in results
                if (one["place"], one["workload"], one["peer"]) == (place, workload, peer)
            }
            if points:
                sizes = sorted(points)
                medians = [points[size] for size in sizes]
                label = peer if workload == workloads[0] else f"{peer} (by id)"
                axes.plot(sizes, medians, style, color=colour, label=label, marker="o", ms=3)
                every |= set(sizes)
                break
    return sorted(every)


def _row_of_axes(places: Sequence[str], height: float = 3.2) -> tuple[plt.Figure, list[Axes]]:
    figure, axes = plt.subplots(
        1, len(places), figsize=(5 * len(places), height), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])


def _medians(
    results: list[dict[str, Any]], place: str, workload: str, figure: str
) -> dict[str, float]:
    return {
        one["peer"]: one["median"]
        for one in results
        if (one["place"], one["workload"], one["figure"]) == (place, workload, figure)
    }


def _colour(peer: str) -> str:
    if peer.startswith("fastclaim"):
        return OURS
    if peer.startswith("floor"):
        return FLOOR
    return ORIGINAL if peer == "original" else THEIRS


def _plain_numbers(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()
