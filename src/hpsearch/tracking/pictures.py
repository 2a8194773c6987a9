"""Pictures of a trial, for its MLflow run."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from hpsearch.state.messages import Progress


def confusion_matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Draw a square for each (true class, predicted class); its colour is the share of the true class.

    `Figure` is used without pyplot: pyplot keeps every figure alive and wants a display.
    """
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    size = max(4.0, 0.6 * len(labels) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            color = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    return figure


def learning_curves(points: Iterable[Progress]) -> Figure | None:
    """Draw the training loss over the steps, and the scores beside it; None if there is no point.

    Each trial gets such a picture while others train. The layout is fixed, because computing one takes most of the
    drawing time.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for point in points:
        for name, value in point.metrics.items():
            curves[name][point.step] = value
    scores = sorted(name for name in curves if name.startswith("validation_"))
    if not curves:
        return None
    figure = Figure(figsize=(9, 3.2))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.15, top=0.9)
    panels = {"loss": [name for name in curves if name == "train_loss"], "scores": scores}
    for panel, (title, names) in zip(figure.subplots(1, 2, sharex=True), panels.items(), strict=True):
        for name in names:
            steps = sorted(curves[name])
            panel.plot(steps, [curves[name][step] for step in steps], marker=".", label=name)
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
        if names:
            panel.legend(loc="best")
    return figure
