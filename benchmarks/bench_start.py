"""What agents' commands take from start to end, by `python -c "import json"`; Markdown.

    python benchmarks/bench_start.py [--venv DIR] [--tasks 10] [--rounds 60] [--dir DIR]

The command is that of an install which is not editable, in an environment without anything else;
without --venv one is made. All ratios are of one run: in each round every contestant starts once,
in an order that changes from round to round. Wall-clock time is the median; processor time (user
and system, of the process) hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from machine import describe_load, describe_machine

from fastclaim import TaskPool

ROOT = Path(__file__).resolve().parent.parent
BASE = 'python -c "import json"'
LOST = "fastclaim claim TASK, which somebody has"
CLAIMED = {"theirs": "b", "ours": "a"}  # when a command starts


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, help="an environment that fastclaim is installed in")
    parser.add_argument("--tasks", type=int, default=10, help="how many tasks wait")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--dir", default="/dev/shm", help="where the pool is")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        environment = arguments.venv or fresh_environment(directory)
        found = measure(environment / "bin", directory, arguments.tasks, arguments.rounds)
    print(describe_machine())
    print(f"\n{arguments.rounds} rounds, {arguments.tasks} tasks waiting in {arguments.dir}\n")
    print("| | wall, ms | ratio | processor, ms | ratio |\n|--|--:|--:|--:|--:|")
    wall_s, processor_s = (statistics.median(column) for column in zip(*found[BASE], strict=True))
    for name, times in found.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"| `{name}` | {wall * 1e3:.1f} | {wall / wall_s:.2f}"
            f" | {processor * 1e3:.1f} | {processor / processor_s:.2f} |"
        )
    print(f"\n{describe_load()}")


def fresh_environment(directory: str) -> Path:
    """An environment with fastclaim alone, installed as users install it."""
    made = Path(directory, "venv")
    venv.create(made, with_pip=True)
    source = Path(directory, "source")
    # A copy: what a build leaves behind does not belong into the source tree.
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.so"))
    command = [made / "bin" / "python", "-m", "pip", "install", "-q", source]
    subprocess.run(command, env=os.environ | {"FASTCLAIM_REQUIRE_EXTENSIONS": "1"}, check=True)
    return made


def measure(
    programs: Path, directory: str, tasks: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and processor time of each start, in seconds, by contestant."""
    pool = TaskPool(Path(directory, "pool"), durability="none")
    script = Path(directory, "script")
    script.write_text("import re\nimport sys\nimport json\n")
    python, command = programs / "python", programs / "fastclaim"
    agent = ["--agent", "a"]
    contestants = {
        "python -c pass": [python, "-c", "pass"],
        BASE: [python, "-c", "import json"],
        "a script that imports re and json": [python, script],
        "python -c 'import fastclaim'": [python, "-c", "import fastclaim"],
        "fastclaim claim TASK": [command, "claim", "t-0", *agent],
        "fastclaim claim": [command, "claim", *agent],
        "fastclaim claim --order any": [command, "claim", *agent, "--order", "any"],
        LOST: [command, "claim", "theirs", *agent],
        "fastclaim complete": [command, "complete", "ours", *agent, "--result", "done"],
        "fastclaim fail": [command, "fail", "ours", *agent],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name in random.sample(list(contestants), len(contestants)):
            ids = [f"t-{n}" for n in range(tasks)] + [*CLAIMED]
            pool.publish_many([{"task_id": each} for each in ids], if_exists="replace")
            for task_id, agent_id in CLAIMED.items():
                pool.claim(task_id, agent_id, bind=False)
            times = start(contestants[name], str(pool.base_dir), 1 if name == LOST else 0)
            if round_number > 0:  # the first one only warms the caches of the system
                found[name].append(times)
            for claim in [*pool.mine("a"), *pool.mine("b")]:
                claim.complete()
    return found


def start(command: list[object], base_dir: str, status: int) -> tuple[float, float]:
    """How long a process that ends like this takes by the clock and of the processor, in s."""
    environment = {"PATH": os.environ["PATH"], "A2A_BASE_DIR": base_dir}
    arguments = [os.fspath(word) if isinstance(word, Path) else str(word) for word in command]
    began_s = time.perf_counter()
    process = os.posix_spawn(
        arguments[0],
        arguments,
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, ended, usage = os.wait4(process, 0)
    took_s = time.perf_counter() - began_s
    if os.waitstatus_to_exitcode(ended) != status:
        sys.exit(f"{arguments}: status {os.waitstatus_to_exitcode(ended)}")
    return took_s, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
