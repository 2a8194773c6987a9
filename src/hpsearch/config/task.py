"""Settings of a task: where its data are, and what a model learns from them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpsearch.config.section import Count, Name, Section, Share


class PackagedData(Section):
    """Rows of a CSV file inside an installed Python package."""

    package: str
    """Import name of the package."""
    file: str
    """Path of the CSV file inside the package."""
    sha256: str
    """SHA-256 checksum of the file, verified at each reading."""
    where: dict[str, str]
    """Columns of the file, and the value that a row must have in each. Rows that match all entries are the data set."""
    classes: dict[str, str] | None
    """Name of the class for each label in the file. null: the labels are already names."""
    note: str | None
    """Remark that is shown with every score on these data."""


class HubData(Section):
    """A data set on the Hugging Face hub."""

    path: str
    """Id of the data set."""
    config: str | None
    """Configuration of the data set, if it has several."""
    revision: str | None
    """Branch, tag or commit; null: the newest version."""
    train_split: str
    """Name of the split to train on."""
    validation_split: str | None
    """Name of the validation split; null: validation rows are split off the train split."""
    test_split: str | None
    """Name of the test split; null: test rows are split off the train split."""


class FileData(Section):
    """Your own files: CSV, TSV, JSONL or Parquet. Questions can be in SQuAD's JSON layout, entities in CoNLL files."""

    train: str | None
    """Path of the file with the training rows; required if task.source is files."""
    validation: str | None
    """Path of the file with the validation rows; null: validation rows are split off the train file."""
    test: str | None
    """Path of the file with the test rows; null: test rows are split off the train file."""
    encoding: str
    """Encoding of text files, for example utf-8."""


class SplitSettings(Section):
    """How rows are split if the source has no validation or test split. Splits are stratified by label and seeded."""

    validation: Share
    """Share of the train rows that becomes the validation split."""
    test: Share
    """Share of the train rows that becomes the test split."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of the split, and of the subsets that a budget takes."""


class TaskSettings(Section):
    """The data, the kind of the task and the metric."""

    name: Name
    """Name of the task. It gives the MLflow experiment and the registered model their name, `hpsearch-<name>`. Required
    for your own files."""
    kind: str
    """Kind of the task: `text_classification`, `multilabel_classification`, `question_answering` or
    `token_classification`."""
    source: Literal["packaged", "hub", "files"]
    """Source of the data: one of the three sections `packaged`, `hub` and `files` below."""
    packaged: PackagedData | None
    hub: HubData | None
    files: FileData | None
    license: str | None
    """License of the data, as their source states it; null: not stated."""
    columns: dict[str, str]
    """Column of the data for each role that the kind of the task needs. Every kind may also have the role `group`. Rows
    of one group stay in the same split."""
    labels: tuple[str, ...] | None
    """Classes in their order; null: the classes found in the data, sorted."""
    label_separator: Annotated[str, Field(min_length=1)]
    """Separator between the labels of one text in CSV and TSV files."""
    quoting: Literal["auto", "double", "none"]
    """Meaning of a double quote at the beginning of a field in CSV and TSV files. double: the field ends at the next
    double quote that is not doubled. none: it is an ordinary character. auto: as double, but a file that can be read
    both ways is refused. Used for your own files and for files to predict."""
    clean: Literal["html", "whitespace", "none"]
    """Cleaning of texts. html: drop tags, decode entities and fold white space. whitespace: only fold white space.
    none: no change."""
    split: SplitSettings
    metric: Literal["accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall", "exact_match", "log_loss"]
    """Metric that the search optimises on validation data. It must be one of the metrics of the task's kind. The
    kind defines how it is computed."""
    max_length: Annotated[int, Field(ge=8, le=8192)]
    """Maximum number of tokens the model reads at once, special tokens included. Longer texts are truncated or cut into
    pieces."""
    truncation: Literal["head", "tail", "head_tail", "windows"]
    """What is kept of a text longer than max_length. head: the beginning. tail: the end. head_tail: a quarter of the
    tokens from the beginning, the rest from the end. windows: all of it, in pieces. A text classifier averages
    the outputs of the pieces. Question answering and named entities need windows."""
    stride: Annotated[int, Field(ge=0)]
    """Number of tokens that neighbouring windows share; at most a quarter of max_length."""
    longest_answer: Count | None
    """Maximum number of tokens in an answer, for tasks whose answers are spans of a text."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "TaskSettings":
        described = [source for source in ("packaged", "hub", "files") if getattr(self, source) is not None]
        if self.source not in described:
            raise ValueError(f"source is {self.source}, but task {self.name} describes only: {', '.join(described)}")
        return self
