"""What is found out before the first trial and kept: how many examples fit in memory at once, and what they take."""

import json
from dataclasses import asdict
from pathlib import Path

from hpsearch.config.settings import Settings, digest, possible
from hpsearch.state.messages import DataName, Hardware, Pace, Paced, Probe
from hpsearch.state.records import DataRef, write_durably
from hpsearch.training.parts import micro_batch, passes_of_batch

NEEDY = ("train.batch_size", "train.rdrop", "task.max_length", "model.dropout", "model.attention_dropout")


class MicroBatch:
    """The most examples of a forward pass. Remembered for what it depends on: model, data, optimizer, hardware."""

    def __init__(self, settings: Settings, ref: DataRef, hardware: Hardware, home: Path) -> None:
        self._data = DataName.of(ref, home)
        # What needs the most memory of all that may be sampled; a mask is kept for each dropout that is not 0.
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
        self.largest, self.length = self._settings.train.batch_size, self._settings.task.max_length
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
        """Whether it was found to fit."""
        self.examples: int = json.loads(self._file.read_text()) if self.known else micro_batch(self.largest, asked)

    def question(self) -> Probe:
        """Whether the longest examples fit."""
        return Probe(self._settings, self._data, self.examples)

    def keep(self) -> None:
        """It fits."""
        write_durably(self._file, json.dumps(self.examples))
        self.known = True

    def halve(self, batch_size: int, examples: int) -> bool:
        """Memory ran out over `examples` at once, of a batch of that size: take half as many, or a little less.

        What another worker found since then stands where it is less. False if it was one example.
        """
        if examples > 1:
            self.examples = min(self.examples, micro_batch(batch_size, examples // 2))
        return examples > 1

    def applied(self, settings: Settings) -> Settings:
        """Settings of a trial, to be trained in micro-batches that fit."""
        train = settings.train.model_copy(update={"micro_batch_size": self.examples})
        return settings.model_copy(update={"train": train})


PACE_SHARE, PACE_SECONDS = 0.01, 8.0  # of the hours, and at most, for the updates that are timed


class KnownPace:
    """What training and scoring take. Remembered for what it depends on: model, length, optimizer, hardware."""

    def __init__(self, settings: Settings, ref: DataRef, hardware: Hardware, home: Path) -> None:
        self._settings, self._data = settings, DataName.of(ref, home)
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
        """None until it is known."""

    def question(self, micro: MicroBatch) -> Pace:
        """What it is, in micro-batches that fit."""
        hours = self._settings.budget.hours
        assert hours is not None, "nobody needs it where there are no hours"
        return Pace(micro.applied(self._settings), self._data, min(PACE_SECONDS, PACE_SHARE * hours * 3600))

    def keep(self, found: Paced) -> None:
        """It has been measured."""
        write_durably(self._file, json.dumps(asdict(found)))
        self.found = found
