"""How many examples fit in memory at once: found before the first trial, halved if it runs out all the same."""

import json
from pathlib import Path

from hpsearch.hardware import Hardware
from hpsearch.records import DataRef, FitSpec, write_durably
from hpsearch.settings import Settings, digest, possible
from hpsearch.training import micro_batch


class MicroBatch:
    """The most examples of a forward pass. Remembered for what it depends on: model, lengths, batch sizes, device."""

    def __init__(self, settings: Settings, hardware: Hardware, home: Path) -> None:
        self._settings = settings
        batch_sizes, lengths = possible(settings, "train.batch_size"), possible(settings, "task.max_length")
        self.largest, self.length = max(batch_sizes), max(lengths)
        asked = settings.train.micro_batch_size
        model, task, optimizer = settings.model.model_dump(mode="json"), settings.task.kind, settings.optimizer.name
        key = digest([model, task, optimizer, batch_sizes, lengths, asked, hardware.describe()])
        self._file = home / "cache" / "micro_batch" / f"{key}.json"
        self.known = self._file.exists()
        """Whether it was found to fit."""
        self.examples: int = json.loads(self._file.read_text()) if self.known else micro_batch(self.largest, asked)

    def question(self, ref: DataRef) -> FitSpec:
        """Whether the longest examples fit."""
        task = self._settings.task.model_copy(update={"max_length": self.length})
        return FitSpec(self._settings.model_copy(update={"task": task}), ref, self.examples)

    def keep(self) -> None:
        """It fits."""
        write_durably(self._file, json.dumps(self.examples))
        self.known = True

    def halve(self, batch_size: int) -> bool:
        """Memory ran out with batches of that size: take half as many, or a little less. False if it was one."""
        before = micro_batch(batch_size, self.examples)
        self.examples = micro_batch(batch_size, before // 2) if before > 1 else 1
        return before > 1

    def applied(self, settings: Settings) -> Settings:
        """Settings of a trial, to be trained in micro-batches that fit."""
        train = settings.train.model_copy(update={"micro_batch_size": self.examples})
        return settings.model_copy(update={"train": train})
