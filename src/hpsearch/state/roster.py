"""What each worker of a study did from moment to moment: the file that the coordinator writes, and what it shows."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpsearch.state.folder import StudyFolder

STARTING, IDLE, ENDED = "starting", "idle", "ended"  # all else is work
NOWHERE = "on no node yet"
BEGAN, CARRIED = "began", "carried"  # keys of lines that say nothing of a worker
PARTS = 100  # equal parts of the time, of which `Staff` knows the mean


@dataclass(frozen=True)
class Doing:
    """What a worker does from a moment on."""

    at: float
    """Seconds since the epoch."""
    worker: int
    """Number of the worker, from 0."""
    node: str
    """Name of the machine; empty while it is not known."""
    what: str
    """STARTING, IDLE, ENDED, or its work: `search 3`."""


@dataclass(frozen=True)
class Carried:
    """Bytes that travelled between the coordinator's disk and those of nodes."""

    sent: int = 0
    fetched: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(self.sent + other.sent, self.fetched + other.fetched)


@dataclass(frozen=True)
class Staff:
    """What the workers of a study did, over all runs of its command."""

    workers: int
    """Number of workers, at most."""
    nodes: dict[str, int]
    """Node: how many workers it had, over all."""
    seconds: float
    """Seconds in which there were workers."""
    working: float
    """Seconds of work, summed over workers."""
    waiting: float
    """Seconds without work, summed over workers."""
    starting: float
    """Seconds until workers were ready, summed over workers."""
    there: tuple[float, ...]
    """Mean number of workers in each of PARTS equal parts of the seconds."""
    busy: tuple[float, ...]
    """Mean number of workers that worked in each of these parts."""
    carried: Carried | None = None
    """None where the nodes see the coordinator's disk."""


class Roster:
    """Writes what the workers do, one line for each change."""

    def __init__(self, folder: StudyFolder) -> None:
        self._path = folder.roster
        self._last: dict[int, tuple[str, str]] = {}

    def begin(self, at: float) -> None:
        """Begin a run of the command."""
        self._last.clear()
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write("\n" + json.dumps({BEGAN: at}))  # a crash may have cut the last line off

    def tell(self, doing: Doing) -> bool:
        """Write what a worker does. Return False, and write nothing, if it does that already."""
        state = doing.node, doing.what
        if self._last.get(doing.worker) == state:
            return False
        self._last[doing.worker] = state
        self._write(json.dumps(asdict(doing)))
        return True

    def carried(self, carried: Carried | None) -> None:
        """Write what this run of the command has carried so far."""
        if carried is not None:
            self._write(json.dumps({CARRIED: asdict(carried)}))

    def _write(self, line: str) -> None:
        # It only informs, so a full disk must not keep the sweep from ending its workers.
        with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def present(folder: StudyFolder) -> list[Doing]:
    """Return what each worker of the last run of the command does, by node and number; those on no node come last."""
    last = {doing.worker: doing for run in _read(folder.roster)[0][-1:] for doing in run}
    there = [doing for doing in last.values() if doing.what != ENDED]
    return sorted(there, key=lambda doing: (not doing.node, doing.node, doing.worker))


def by_node(doing: Sequence[Doing]) -> dict[str, str]:
    """Return a text for each node: what its workers do."""
    found: dict[str, list[str]] = {}
    for one in doing:
        found.setdefault(one.node or NOWHERE, []).append(one.what)
    return {node: ", ".join(_counted(what)) for node, what in found.items()}


def _counted(what: Sequence[str]) -> Iterator[str]:
    """Yield each work, and how many workers have none."""
    yield from (one for one in what if one not in (STARTING, IDLE))
    for state in (IDLE, STARTING):
        if count := what.count(state):
            yield f"{count} {state}"


def staff(folder: StudyFolder) -> Staff | None:
    """Return what the workers did; None if it is not known."""
    runs, carried = _read(folder.roster)
    stretches: list[tuple[float, float, str]] = []  # from, to, what: seconds since the first run began
    nodes: dict[str, set[int]] = {}
    before = 0.0  # seconds of the runs so far
    for run in runs:
        began, end = run[0].at, max(doing.at for doing in run)
        open_: dict[int, Doing] = {}
        # A run that was killed ends with the last that is known of it.
        for doing in [*run, *(Doing(end, worker, "", ENDED) for worker in {one.worker for one in run})]:
            last = open_.get(doing.worker)
            if last is not None and last.what != ENDED and doing.at > last.at:
                stretches.append((before + last.at - began, before + doing.at - began, last.what))
            open_[doing.worker] = doing
            if doing.node:
                nodes.setdefault(doing.node, set()).add(doing.worker)
        before += max(0.0, end - began)
    if not stretches:
        return None
    spent = {state: sum(to - at for at, to, what in stretches if what == state) for state in (IDLE, STARTING)}
    work = [(at, to) for at, to, what in stretches if what not in spent]
    return Staff(
        workers=len({doing.worker for run in runs for doing in run}),
        nodes={node: len(workers) for node, workers in sorted(nodes.items())},
        seconds=before,
        working=sum(to - at for at, to in work),
        waiting=spent[IDLE],
        starting=spent[STARTING],
        there=_mean([(at, to) for at, to, _ in stretches], before),
        busy=_mean(work, before),
        carried=sum(carried, Carried()) if carried else None,
    )


def most_workers(folder: StudyFolder) -> int:
    """Return the largest number of workers that a study has had; 0 where it is not known."""
    return max((doing.worker + 1 for run in _read(folder.roster)[0] for doing in run), default=0)


def _mean(stretches: Sequence[tuple[float, float]], seconds: float) -> tuple[float, ...]:
    """Return how many stretches there are in the mean, in each of PARTS equal parts of the seconds."""
    length, found = seconds / PARTS, [0.0] * PARTS
    for at, to in stretches:
        for part in range(int(at / length), min(PARTS, int(to / length) + 1)):
            found[part] += max(0.0, min(to, (part + 1) * length) - max(at, part * length))
    return tuple(round(one / length, 3) for one in found)


def _read(path: Path) -> tuple[list[list[Doing]], list[Carried]]:
    """Return the lines of each run of the command and what was carried, without lines that a crash cut off."""
    runs: list[list[Doing]] = []
    carried: dict[int, Carried] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                said = json.loads(line)
                if BEGAN in said:
                    runs.append([])
                elif CARRIED in said:
                    carried[len(runs)] = Carried(**said[CARRIED])  # the last line of a run counts
                else:
                    doing, run = Doing(**said), runs[-1]
                    # The clock of the machine may have been set back.
                    run.append(replace(doing, at=max(doing.at, run[-1].at)) if run else doing)
            except (ValueError, TypeError, IndexError):
                continue
    return [run for run in runs if run], list(carried.values())
