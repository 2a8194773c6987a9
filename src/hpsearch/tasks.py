"""The task kinds there are; `kinds.Kind` says what one declares."""

from hpsearch.classification import MultilabelClassification, TextClassification
from hpsearch.kinds import Kind
from hpsearch.question_answering import QuestionAnswering

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (TextClassification(), MultilabelClassification(), QuestionAnswering())
}
