"""The files of a study: their names, and who writes them. Nobody else joins these paths."""

from dataclasses import dataclass
from pathlib import Path

from hpsearch.errors import RequestError


@dataclass(frozen=True)
class TrialFolder:
    """What one trial, or one run of a later phase, keeps."""

    path: Path

    @property
    def record(self) -> Path:
        """The truth about the trial; the coordinator writes it before anybody is told."""
        return self.path / "trial.json"

    @property
    def points(self) -> Path:
        """Its curves, a line for each step; the coordinator adds to them."""
        return self.path / "points.jsonl"

    @property
    def model(self) -> Path:
        """Weights, config and tokenizer once it is complete; its worker writes them, the coordinator deletes them."""
        return self.path / "model"

    @property
    def weights(self) -> Path:
        """Of the model."""
        return self.model / "model.safetensors"

    @property
    def unfinished_model(self) -> Path:
        """What becomes `model` when it is whole."""
        return self.path / "model.tmp"

    @property
    def answers(self) -> Path:
        """What the model of a complete run said of each validation example; the coordinator writes it."""
        return self.path / "validation.json"

    @property
    def unsealed(self) -> Path:
        """What becomes a checkpoint when it is whole; its worker writes it."""
        return self.path / "unsealed"

    @property
    def checkpoints_lock(self) -> Path:
        """Held by whoever seals, reads or deletes checkpoints."""
        return self.path / "checkpoints.lock"

    def checkpoint(self, step: int) -> Path:
        """The sealed checkpoint of a step; its worker makes it."""
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """Sealed checkpoints, newest first."""
        return sorted(self.path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)


@dataclass(frozen=True)
class StudyFolder:
    """What one study keeps. The coordinator writes all of it but commands, and what `TrialFolder` leaves to workers."""

    path: Path

    @staticmethod
    def of(home: Path, study: str) -> "StudyFolder":
        """The folder of a study in a state folder; it need not be there."""
        return StudyFolder(home / "studies" / study)

    @staticmethod
    def begun(home: Path, study: str) -> "StudyFolder":
        """The folder of a study that was begun. Raises RequestError if there is none."""
        folder = StudyFolder.of(home, study)
        if not folder.settings.exists():
            there = ", ".join(one.name for one in StudyFolder.all(home)) or "none"
            raise RequestError(f"there is no study {study} in {home}; there are: {there}")
        return folder

    @staticmethod
    def all(home: Path) -> list["StudyFolder"]:
        """Of every study in a state folder, by name."""
        return [StudyFolder(path) for path in sorted((home / "studies").glob("*")) if path.is_dir()]

    @property
    def name(self) -> str:
        """The study's."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held by the study's coordinator."""
        return self.path / "lock"

    @property
    def identity(self) -> Path:
        """What makes its trials comparable."""
        return self.path / "identity.json"

    @property
    def settings(self) -> Path:
        """What it was asked."""
        return self.path / "settings.yaml"

    @property
    def seconds(self) -> Path:
        """Time by phase."""
        return self.path / "seconds.json"

    @property
    def plans(self) -> Path:
        """What the time was for, as each phase began."""
        return self.path / "plans.json"

    @property
    def floors(self) -> Path:
        """What the floors came to on validation."""
        return self.path / "floors.json"

    @property
    def test(self) -> Path:
        """The reading of test."""
        return self.path / "test.json"

    @property
    def summary(self) -> Path:
        """The result."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The result, as a page."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Folder of Optuna's pictures."""
        return self.path / "plots"

    @property
    def published(self) -> Path:
        """Is there once MLflow has the result."""
        return self.path / "published.json"

    def command(self, name: str) -> Path:
        """One that was given from another terminal, which writes it."""
        return self.path / "steering" / f"{name}.json"

    def reply(self, name: str) -> Path:
        """To that command; the coordinator writes it."""
        return self.path / "steering" / f"{name}.reply.json"

    def commands(self) -> list[str]:
        """Names of those commands, by time."""
        found = (path.name.split(".") for path in (self.path / "steering").glob("*.json"))
        return sorted(parts[0] for parts in found if parts[1:] == ["json"])

    @property
    def workers(self) -> Path:
        """Folder of what workers write besides; a process of this machine has `<index>.log` there."""
        return self.path / "workers"

    def trial(self, phase: str, number: int) -> TrialFolder:
        """Of one trial of a phase, which names its folder; it need not be there."""
        return TrialFolder(self.path / phase / str(number))

    def places(self) -> list[str]:
        """Names of the folders of phases that have a trial, the one that was written to last at the end."""
        written: dict[str, float] = {}
        for path in self.path.glob("*/[0-9]*/trial.json"):
            place = path.parents[1].name
            written[place] = max(written.get(place, 0.0), path.stat().st_mtime)
        return sorted(written, key=lambda place: written[place])

    def trials(self, phase: str) -> list[TrialFolder]:
        """Those of a phase that have a record, by number."""
        found = (TrialFolder(path.parent) for path in (self.path / phase).glob("[0-9]*/trial.json"))
        return sorted(found, key=lambda trial: int(trial.path.name))

    def floor(self, name: str) -> TrialFolder:
        """Of a floor: its model, and its answers on validation. Its worker writes the model, as of a trial."""
        return TrialFolder(self.path / "floors" / name)

    def floor_folders(self) -> list[TrialFolder]:
        """Those that are there, by name."""
        return [TrialFolder(path) for path in sorted((self.path / "floors").glob("*")) if path.is_dir()]

    def inside(self, trial: TrialFolder) -> str:
        """Where a trial is in this folder, as results name it: `trials/3`."""
        return trial.path.relative_to(self.path).as_posix()

    def named(self, inside: str) -> TrialFolder:
        """The trial that `inside` gave the name of."""
        return TrialFolder(self.path / inside)

    def leftovers(self) -> list[Path]:
        """What a crash left of files and folders that were being written."""
        unsealed = [path for path in self.path.glob("*/*/unsealed") if any(path.iterdir())]
        return sorted([*self.path.rglob("*.tmp"), *unsealed])
