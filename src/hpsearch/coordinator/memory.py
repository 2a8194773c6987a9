"""How many examples fit in memory, and how long they take. It is measured before the first trial, and kept."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.config.settings import Settings, digest, possible
from hpsearch.errors import NoResultError, RequestError
from hpsearch.state.messages import DataName, Fits, Hardware, Lost, Pace, Paced, Probe
from hpsearch.state.records import DataRef, write_durably
from hpsearch.training.parts import micro_batch, passes_of_batch, slice_size
from hpsearch.workers.interface import Worker

if TYPE_CHECKING:
    from hpsearch.coordinator.crew import Crew

NEEDY = ("train.batch_size", "train.rdrop", "task.max_length", "model.dropout", "model.attention_dropout")


class MicroBatch:
    """The largest forward pass that fits in memory. It is kept for each model, data, optimizer and hardware."""

    def __init__(self, settings: Settings, ref: DataRef, hardware: Hardware, home: Path) -> None:
        self._data, self._hardware = DataName.of(ref, home), hardware
        # The sampled values that need the most memory. Each dropout above 0 keeps a mask.
        most = {path: max(possible(settings, path)) for path in NEEDY}
        train = {name: most[f"train.{name}"] for name in ("batch_size", "rdrop")}
        model = {name: most[f"model.{name}"] for name in ("dropout", "attention_dropout")}
        self._settings = settings.model_copy(
            update={
                "task": settings.task.model_copy(update={"max_length": most["task.max_length"]}),
                "train": settings.train.model_copy(update=train),
                "model": settings.model.model_copy(update=model),
            }
        )
        self.largest = slice_size(self._settings.train.batch_size, hardware.processes)
        self.length = self._settings.task.max_length
        asked = settings.train.micro_batch_size
        parts = [self._settings.model, self._settings.optimizer]
        lengths = [self.length, settings.task.truncation, ref.digests["train"], ref.sizes["train"]]
        key = digest(
            [
                *(part.model_dump(mode="json") for part in parts),
                settings.task.kind,
                lengths,
                self.largest,
                passes_of_batch(self._settings.train),
                asked,
                asdict(hardware),
            ]
        )
        self._file = home / "cache" / "micro_batch" / f"{key}.json"
        self.known = self._file.exists()
        """Whether this number of examples was found to fit."""
        self.examples: int = json.loads(self._file.read_text()) if self.known else micro_batch(self.largest, asked)

    def question(self) -> Probe:
        """Return the question whether the longest examples fit."""
        return Probe(self._settings, self._data, self.examples)

    def keep(self, where: Hardware) -> None:
        """Take it that the micro-batch fits, as it did on `where`. If that is its hardware, other studies know it."""
        if where == self._hardware:
            write_durably(self._file, json.dumps(self.examples))
        self.known = True

    def halve(self, batch_size: int, examples: int) -> bool:
        """Halve the micro-batch after memory ran out; return False if it ran out over a single example.

        The new size cuts the batch into equal parts of at most half of `examples`. A smaller size that
        another worker has found since then stays.

        Args:
            batch_size: examples of the batch.
            examples: size of the forward pass that ran out of memory.
        """
        if examples > 1:
            self.examples = min(self.examples, micro_batch(batch_size, examples // 2))
        return examples > 1

    @property
    def parts(self) -> str:
        """Message that batches are trained in parts."""
        parts = f"parts of at most {self.examples} examples on {self._hardware.name}"
        return f"memory: batches are trained in {parts}; the updates are the same"

    def applied(self, settings: Settings) -> Settings:
        """Return a trial's settings with micro-batches that fit."""
        train = settings.train.model_copy(update={"micro_batch_size": self.examples})
        return settings.model_copy(update={"train": train})


class MicroBatches:
    """The micro-batches of a study, one for each kind of hardware that its workers have."""

    def __init__(self, settings: Settings, ref: DataRef, first: Hardware, home: Path) -> None:
        self._asked = settings, ref, home
        self.first = MicroBatch(settings, ref, first, home)
        """The micro-batch of the first worker's hardware."""
        self._of_hardware = {first: self.first}

    def of(self, hardware: Hardware) -> MicroBatch:
        """Return the micro-batch of this hardware. Where it is not known, it begins as that of the first hardware."""
        if hardware not in self._of_hardware:
            settings, ref, home = self._asked
            self._of_hardware[hardware] = made = MicroBatch(settings, ref, hardware, home)
            if not made.known:
                made.examples = self.first.examples
        return self._of_hardware[hardware]

    def named(self, device: str | None) -> MicroBatch:
        """Return the micro-batch of the processor or GPU of this name; that of the first where it is unknown."""
        found = (micro for hardware, micro in self._of_hardware.items() if hardware.name == device)
        return next(found, self.first)


def settle_memory(crew: "Crew") -> None:
    """Find the largest micro-batch that fits on the first worker's hardware, before the first trial.

    Raises:
        Interrupted: a signal came.
        RequestError: one example does not fit, or an update fails for another reason.
    """
    micro, ended = crew.micro, 0
    while not micro.known:
        worker = crew.ready_worker()
        fits = _fits(crew, worker)
        if fits:
            micro.keep(crew.hardware_of(worker))
            continue
        crew.renew(worker)
        ended += fits is None
        if fits is None and ended < crew.settings.hardware.max_attempts:
            continue  # another process may have killed it
        ended = 0
        if not micro.halve(micro.largest, micro_batch(micro.largest, micro.examples)):
            raise RequestError(
                f"task.max_length={micro.length}: not one example of that length fits in memory with "
                f"model {crew.settings.model.name} on {crew.hardware.name}; lower task.max_length, or take a "
                "smaller model"
            )
    if micro.examples < micro.largest:
        crew.display.note(micro.parts)


def _fits(crew: "Crew", worker: Worker) -> bool | None:
    """Ask an idle worker whether the micro-batch fits in memory.

    A worker that hangs counts as False, because memory that is swapped to disk does not help. The result is None if the
    worker ends for an unknown reason.

    Raises:
        Interrupted: a signal came.
        RequestError: the update fails for another reason, as it would in every trial.
    """
    answer = crew.ask(worker, crew.micro.question())
    if answer is None:
        return False
    if isinstance(answer, Fits) and answer.fault is not None:
        raise RequestError(
            f"a first update fails, as every trial would, so none is started: {answer.fault} (more in "
            f"{worker.output}); correct it and give the same command"
        )
    if isinstance(answer, Lost):
        return False if answer.for_memory else None
    return isinstance(answer, Fits) and answer.fits


PACE_SHARE, PACE_SECONDS = 0.01, 8.0  # share of the hours, and most seconds, for the timed updates


class KnownPace:
    """The time that training and scoring take. It is kept for each model, length, optimizer and hardware."""

    def __init__(self, settings: Settings, ref: DataRef, hardware: Hardware, home: Path) -> None:
        self._settings, self._data, self._hardware = settings, DataName.of(ref, home), hardware
        task = settings.task
        key = digest(
            [
                *(part.model_dump(mode="json") for part in (settings.model, settings.optimizer)),
                [
                    task.kind,
                    task.max_length,
                    task.truncation,
                    settings.train.batch_size,
                    passes_of_batch(settings.train),
                ],
                asdict(hardware),
            ]
        )
        self._file = home / "cache" / "pace" / f"{key}.json"
        self.found = Paced(**json.loads(self._file.read_text())) if self._file.exists() else None
        """Measured times; None until they are known."""

    def question(self, micro: MicroBatch) -> Pace:
        """Return the question how long training and scoring take, in micro-batches that fit."""
        hours = self._settings.budget.hours
        assert hours is not None, "nobody needs it where there are no hours"
        return Pace(micro.applied(self._settings), self._data, min(PACE_SECONDS, PACE_SHARE * hours * 3600))

    def keep(self, found: Paced, where: Hardware) -> None:
        """Take the times measured on `where`, and record them for other studies, unless the machine was busy."""
        self.found = found
        if where == self._hardware and not found.busy:
            write_durably(self._file, json.dumps(asdict(found)))

    @property
    def busy(self) -> str | None:
        """Message that the machine was busy while the times were measured; None where it was not."""
        if self.found is None or not self.found.busy:
            return None
        return (
            f"the processors are busy: the worker had one {self.found.running:.0%} of the time that it wanted one. "
            "The plan is made for that pace, and follows it as it changes; end other programs, or lower "
            "hardware.threads if a limit gives it fewer processors"
        )


def settle_pace(crew: "Crew", pace: KnownPace) -> Paced:
    """Return the time that training and scoring take; measure it before the first trial, unless it is known.

    Raises:
        Interrupted: a signal came.
        NoResultError: the measurement failed `hardware.max_attempts` times.
    """
    ended = 0
    while pace.found is None:
        worker = crew.ready_worker()
        answer = crew.ask(worker, pace.question(crew.micro))
        if isinstance(answer, Paced):
            pace.keep(answer, crew.hardware_of(worker))
            continue
        ended += 1
        if ended >= crew.settings.hardware.max_attempts:
            raise NoResultError(f"the worker that is timed ended {ended} times; {worker.output} says why")
        crew.renew(worker)
    return pace.found
