"""Reader of the CoNLL layout: one token on each line, its tag last, and blank lines between sentences."""

from hpsearch.errors import RequestError

SUFFIXES = (".conll", ".bio", ".iob")
COLUMNS = ("tokens", "tags")
DOCUMENT = "-DOCSTART-"


def sentences(text: str, name: str) -> tuple[list[int], dict[str, list[list[str]]]]:
    """Return the line number of each sentence, and the columns of `COLUMNS` with one list per sentence.

    Tabs divide the columns of a line. In a line without a tab, white space does. Columns between token and tag are
    ignored, and so are the lines that begin documents.

    Args:
        text: Content of the file.
        name: Name of the file in messages.

    Raises:
        RequestError: The lines differ in their number of columns, or have fewer than two.
    """
    numbers: list[int] = []
    columns: dict[str, list[list[str]]] = {column: [] for column in COLUMNS}
    inside, width = False, None
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.strip("\r").split("\t") if "\t" in line.strip() else line.split()
        if not line.strip() or fields[0] == DOCUMENT:
            inside = False
            continue
        width = width or len(fields)
        if len(fields) != width or width < len(COLUMNS):
            raise RequestError(
                f"{name}, line {number}: {len(fields)} columns, where there must be "
                f"{f'{width}, as above' if width >= len(COLUMNS) else 'at least two'}; write a token first and its tag "
                "last on each line, a blank line between sentences, and no comments"
            )
        if not inside:
            inside = True
            numbers.append(number)
            for values in columns.values():
                values.append([])
        columns["tokens"][-1].append(fields[0])
        columns["tags"][-1].append(fields[-1].strip())
    return numbers, columns
