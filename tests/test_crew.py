"""How many workers a crew has, while the room for them changes."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.coordinator import crew
from hpsearch.coordinator.crew import SEAL_SECONDS, Crew
from hpsearch.coordinator.headcount import IDLE_SECONDS
from hpsearch.errors import NoResultError
from hpsearch.state.messages import DataName, Lost, Message, NoRoom, OutOfMemory, Part, Score, Scored


@dataclass
class Made:
    """A worker that does nothing."""

    index: int
    ready: bool = False
    trial: int | None = None
    ended: bool = False
    node: str = "n1"
    silent_seconds: float = 0.0
    leaving: bool = False
    pauses: int = 0
    patience: float | None = None

    def pause(self) -> None:
        self.pauses += 1

    def end(self, timeout_seconds: float) -> None:
        self.ended, self.patience = True, timeout_seconds


@dataclass
class Place:
    """A workplace with as much room as a test says."""

    count: int
    made: list[Made] = field(default_factory=list)
    hardware: Any = None
    carried: Any = None

    def start(self, index: int, output: str) -> Made:
        assert all(worker.ended for worker in self.made if worker.index == index), "two workers have one number"
        self.made.append(Made(index))
        return self.made[-1]


def crew_of(place: Place, home: Path, autoscaling: bool, note: Callable[[str], None]) -> Crew:
    settings: Any = SimpleNamespace(study="toy", cluster=SimpleNamespace(autoscaling=autoscaling))
    display: Any = SimpleNamespace(note=note, staff=lambda doing: None)
    workplace, ref = cast(Any, place), cast(Any, None)
    return Crew(settings, home, ref, workplace, display, lambda: None)


@dataclass
class Bench:
    """A crew in a place of these, with a clock that is set by hand."""

    crew: Crew
    place: Place
    notes: list[str]
    seconds: float = 0.0

    def follow(self) -> list[int]:
        assert self.crew.follow() == max(1, self.place.count)
        return [worker.index for worker in self.crew.workers]

    def all_ready(self) -> None:
        for worker in self.place.made:
            worker.ready = True


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    monkeypatch.setattr(crew, "MicroBatches", lambda *_: None)

    def made(room: int, autoscaling: bool = False) -> Bench:
        place, notes = Place(room), list[str]()
        found = Bench(crew_of(place, tmp_path, autoscaling, notes.append), place, notes)
        monkeypatch.setattr(crew.time, "monotonic", lambda: found.seconds)
        found.follow()
        return found

    return made


def test_workers_come_with_their_room_and_only_those_without_room_go(bench: Callable[..., Bench]) -> None:
    here = bench(2)
    here.all_ready()
    here.place.count = 4
    assert here.follow() == [0, 1, 2, 3]
    here.all_ready()
    here.place.count = 3
    assert here.follow() == [0, 1, 2, 3], "all of them have a place still"
    here.place.made[1].ready = False  # its node is gone, and another worker in its place waits for room
    assert here.follow() == [0, 2, 3]
    here.place.count = 4
    assert here.follow() == [0, 2, 3, 1]
    numbers = [(2, 4), (4, 3), (3, 4)]
    assert here.notes[1:] == [f"cluster: the number of workers changes from {old} to {new}" for old, new in numbers]


def test_what_a_node_does_that_will_go_is_saved_once_and_goes_on_elsewhere(bench: Callable[..., Bench]) -> None:
    here = bench(3)
    here.all_ready()
    first, second, third = here.place.made
    first.trial, first.leaving, second.leaving, second.node = 7, True, True, "n2"
    here.crew._work[0] = "search 7"
    for _ in range(3):
        here.crew.move()
    assert (first.pauses, first.ended) == (1, False), "its trial is being saved"
    assert (second.pauses, second.patience) == (0, SEAL_SECONDS), "it was idle, and what it writes is waited for"
    assert not third.ended
    assert [worker.index for worker in here.crew.workers] == [0, 1, 2]
    assert here.crew.workers[1] is here.place.made[3]
    first.trial = None
    here.crew.move()
    assert first.ended
    again = here.place.made[4]
    again.ready, again.trial, again.leaving = True, 7, True  # on another node, which will go too
    here.crew.move()
    assert again.pauses == 1
    assert here.notes.count("cluster: node n1 will go soon; what worker 0 does is saved") == 2


def test_one_worker_stays_without_any_room(bench: Callable[..., Bench]) -> None:
    here = bench(2)
    here.place.count = 0
    assert here.follow() == [1]


def test_nodes_without_work_are_let_go_and_asked_for_again_with_the_next_phase(bench: Callable[..., Bench]) -> None:
    here = bench(4, autoscaling=True)
    workers = here.place.made
    for worker in workers[:3]:
        worker.ready, worker.trial = True, worker.index
    assert here.follow() == [0, 1, 2, 3], "the last one waits for its node"
    workers[0].trial = None
    here.follow()
    here.seconds += IDLE_SECONDS / 2
    assert here.follow() == [0, 1, 2, 3]
    here.seconds += IDLE_SECONDS
    assert here.follow() == [1, 2], "there is no work for the first, so none for the last"
    assert workers[0].ended
    assert workers[3].ended
    workers[1].trial = workers[2].trial = None
    here.follow()
    here.seconds += 2 * IDLE_SECONDS
    assert len(here.follow()) == 1, "one stays, which scores test"
    here.crew.headcount.needed(math.inf)
    assert sorted(here.follow()) == [0, 1, 2, 3]


def test_workers_are_asked_for_again_where_all_have_work(bench: Callable[..., Bench]) -> None:
    """Runs in rounds: a round waits for its slowest run, and the next one has work for many."""
    here = bench(8, autoscaling=True)
    here.all_ready()
    here.crew.workers[0].trial = 0  # type: ignore[misc]
    here.follow()
    here.seconds += 2 * IDLE_SECONDS
    assert here.follow() == [0]
    here.crew.headcount.work_found(here.crew.workers)
    assert len(here.follow()) == 2
    here.all_ready()
    here.crew.headcount.work_found(here.crew.workers)
    assert len(here.follow()) == 2, "one of them has no work yet"
    here.crew.workers[1].trial = 1  # type: ignore[misc]
    for count in (4, 8, 8):
        for worker in here.crew.workers:
            worker.trial = worker.index  # type: ignore[misc]
        here.crew.headcount.work_found(here.crew.workers)
        assert len(here.follow()) == count
        here.all_ready()


SCORED = Scored(0, "test", {}, None, (), (), None, 0.0)


@pytest.mark.parametrize(
    ("said", "comes"),
    [
        ([Lost(None, "its node is gone")] * 5 + [SCORED], SCORED),
        ([Lost(0, "it died")] * 2 + [SCORED], SCORED),
        ([Lost(0, "it died")] * 3 + [SCORED], NoResultError),
        ([OutOfMemory(0, 1, "memory ran out")] * 3 + [SCORED], NoResultError),
        ([NoRoom(0)], OSError),
    ],
)
def test_only_a_loss_that_scoring_may_have_caused_counts_against_it(
    said: list[Message], comes: Any, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench(3)
    hardware = SimpleNamespace(max_attempts=3, hang_seconds=60.0)
    here.crew.settings = SimpleNamespace(hardware=hardware)  # type: ignore[assignment]
    work = Score(0, cast(Any, None), DataName("data", (), {}, {}), "trial", Part("test"), {})

    def hear(workers: list[Made], seconds: float) -> Iterator[tuple[Made, Message]]:
        here.all_ready()
        for worker in workers:
            if worker.trial is not None:
                worker.trial = None
                yield worker, said.pop(0)

    monkeypatch.setattr(here.place, "hear", hear, raising=False)
    monkeypatch.setattr(Made, "give", lambda worker, work: setattr(worker, "trial", work.number), raising=False)
    if comes is SCORED:
        assert here.crew._scored(work) is SCORED
    else:
        with pytest.raises(comes):
            here.crew._scored(work)


def test_a_worker_that_was_lost_while_nobody_listened_gets_no_work(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench(2)
    here.all_ready()
    first, second = here.place.made

    def hear(workers: list[Made], seconds: float) -> Iterator[tuple[Made, Message]]:
        if first in workers:
            yield first, Lost(None, "its node is gone")

    monkeypatch.setattr(here.place, "hear", hear, raising=False)
    assert here.crew.ready_worker() is second
    assert first.ended


def test_one_worker_stays_for_the_test(bench: Callable[..., Bench]) -> None:
    for autoscaling, left in ((True, 1), (False, 3)):
        here = bench(3, autoscaling=autoscaling)
        here.place.made[0].ready = here.place.made[1].ready = True
        here.follow()
        here.crew.rest()
        assert len(here.crew.workers) == left
        assert here.crew.workers[0].ready


def test_without_autoscaling_idle_workers_stay(bench: Callable[..., Bench]) -> None:
    here = bench(3)
    here.all_ready()
    here.follow()
    here.seconds += 10 * IDLE_SECONDS
    assert here.follow() == [0, 1, 2]


@given(data=st.data())
def test_whatever_happens_workers_with_work_stay_and_numbers_are_their_own(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    counter, seconds = itertools.count(), 0.0
    with pytest.MonkeyPatch().context() as patched:
        patched.setattr(crew, "MicroBatches", lambda *_: None)
        patched.setattr(crew.time, "monotonic", lambda: seconds)
        place = Place(data.draw(st.integers(0, 5)))
        here = crew_of(place, tmp_path_factory.mktemp("home"), data.draw(st.booleans()), lambda _: None)
        for _ in range(data.draw(st.integers(1, 12))):
            here.follow()
            alive = [worker for worker in place.made if not worker.ended]
            assert alive
            assert alive == sorted(here.workers, key=place.made.index)  # type: ignore[arg-type]
            for worker in alive:
                worker.ready = worker.ready or data.draw(st.booleans())
                worker.trial = next(counter) if worker.ready and data.draw(st.booleans()) else None
            busy = [worker for worker in alive if worker.trial is not None]
            place.count = data.draw(st.integers(0, 5))
            seconds += data.draw(st.sampled_from([0.5, 70.0]))
            here.follow()
            assert not any(worker.ended for worker in busy)
            if data.draw(st.booleans()):
                here.headcount.needed(math.inf)
            here.headcount.work_found(here.workers)
