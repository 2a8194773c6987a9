"""Optuna's own plots of a study."""

import logging
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import optuna
from optuna.visualization import matplotlib as pictures

from hpsearch.state.records import write_durably

log = logging.getLogger(__name__)

PLOTS = {
    "history": "optimization_history",
    "importances": "param_importances",
    "parallel_coordinates": "parallel_coordinate",
    "slice": "slice",
}


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """Draw the plots: a PNG for each, and all of them in one `optuna.html`.

    The page contains plotly.js, because MLflow shows an HTML artifact in a sandbox that reaches no other file.
    A plot for which there are too few trials is left out, and the reason is logged.

    Returns:
        The files that were written; none with fewer than two complete trials or without a searched parameter.
    """
    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(complete) < 2 or not complete[0].params:
        log.info("Optuna's plots are left out: they need two complete trials and a searched parameter")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.pyplot.switch_backend("agg")  # the coordinator has no screen to draw on
    written: list[Path] = []
    parts: list[str] = []
    for name, plot in PLOTS.items():
        try:
            with warnings.catch_warnings(), matplotlib.rc_context({"figure.figsize": (10, 5)}):
                warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
                # If all trials score alike, Optuna warns and draws equal bars, which say nothing.
                warnings.filterwarnings("error", message=".*importances will be equal", category=UserWarning)
                warnings.filterwarnings("ignore", message="Attempting to set identical", category=UserWarning)
                getattr(pictures, f"plot_{plot}")(study)
                figure = getattr(optuna.visualization, f"plot_{plot}")(study)
        except UserWarning as reason:
            log.info("Optuna's plot of %s is left out: %s", name, reason)
            continue
        matplotlib.pyplot.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
        matplotlib.pyplot.close("all")
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
        written.append(folder / f"{name}.png")
    page = folder / "optuna.html"
    write_durably(
        page, f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Optuna</title>{"".join(parts)}</html>'
    )
    return [*written, page]
