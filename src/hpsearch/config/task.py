"""Settings of a task: where its data are, and what is to be learnt of them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpsearch.config.section import Count, Name, Section, Share


class PackagedData(Section):
    """Rows of a CSV file that an installed Python package carries."""

    package: str
    """Import name of the package."""
    file: str
    """Path of the CSV file inside the package."""
    sha256: str
    """Checksum of that file, verified at each reading."""
    where: dict[str, str]
    """Column: value; the rows that match are the data set."""
    classes: dict[str, str] | None
    """Label in the file: name of the class; null: labels are names already."""
    note: str | None
    """Said beside every score on this data."""


class HubData(Section):
    """A data set of the Hugging Face hub."""

    path: str
    """Data set id."""
    config: str | None
    """Configuration of the data set, where it has several."""
    revision: str | None
    """Branch, tag or commit; null: the newest."""
    train_split: str
    """Name of the split to train on."""
    validation_split: str | None
    """null: validation rows are split off the train split."""
    test_split: str | None
    """null: test rows are split off the train split."""


class FileData(Section):
    """The user's own files: CSV, TSV, JSONL or Parquet."""

    train: str | None
    """Path of the file with the training rows."""
    validation: str | None
    """null: validation rows are split off the train file."""
    test: str | None
    """null: test rows are split off the train file."""
    encoding: str
    """Encoding of text files."""


class SplitSettings(Section):
    """How rows are split where the source gives no validation or test split: stratified by label, seeded."""

    validation: Share
    """Share of the rows that are split."""
    test: Share
    """Share of the rows that are split."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of the split and of the subsets a budget takes."""


class TaskSettings(Section):
    """Data, label kind and metric."""

    name: Name
    """Names the experiment and the registered model, `hpsearch-<name>`; required for your own files."""
    kind: str
    """What is to be learnt of an example; `text_classification`, `multilabel_classification`, `question_answering` or
    `token_classification`."""
    source: Literal["packaged", "hub", "files"]
    """Which of the three descriptions below to read."""
    packaged: PackagedData | None
    hub: HubData | None
    files: FileData | None
    license: str | None
    """Of the data, as their source states it; null: not stated."""
    columns: dict[str, str]
    """Role that the task kind asks for: column of the data. Each kind may have group, whose rows stay in one split."""
    labels: tuple[str, ...] | None
    """Classes in their order; null: as found, sorted."""
    label_separator: Annotated[str, Field(min_length=1)]
    """Stands between the labels of a text in CSV and TSV files."""
    quoting: Literal["auto", "double", "none"]
    """What a double quote at the beginning of a field means in CSV and TSV files. double: the field ends with the next
    single one; none: it is a character like any other; auto: as double, and a file that may be meant either way is
    refused. For your own files and those that are predicted."""
    clean: Literal["html", "whitespace", "none"]
    """html: drop tags, decode entities, fold white space."""
    split: SplitSettings
    metric: Literal["accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall", "exact_match", "log_loss"]
    """Searched for on validation data; one of those that the task kind has, by its definition."""
    max_length: Annotated[int, Field(ge=8, le=8192)]
    """Tokens an example may have, special tokens included."""
    truncation: Literal["head", "tail", "head_tail", "windows"]
    """What is kept of a longer text; head_tail: the first quarter and the end; windows: all of it, in pieces whose
    outputs are averaged."""
    stride: Annotated[int, Field(ge=0)]
    """Tokens that neighbouring windows share; at most a quarter of max_length."""
    longest_answer: Count | None
    """Tokens an answer may have, where it is a span of a text."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "TaskSettings":
        described = [source for source in ("packaged", "hub", "files") if getattr(self, source) is not None]
        if self.source not in described:
            raise ValueError(f"source is {self.source}, but task {self.name} describes only: {', '.join(described)}")
        return self
