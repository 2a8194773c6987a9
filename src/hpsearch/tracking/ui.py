"""MLflow's UI on this machine."""

from pathlib import Path

from hpsearch.config.settings import Settings
from hpsearch.errors import redact
from hpsearch.serving import mlflow_process
from hpsearch.tracking.runs import Tracking

# MLflow's pages begin in a mode for language models' traces, which shows no run. This opens the other one.
MODE = "workflowType=machine_learning"


def ui(settings: Settings, home: Path, port: int) -> None:
    """Print where the runs are shown; unless the store is a server, run the MLflow UI on loopback."""
    tracking = Tracking(settings, home)
    experiment = tracking.experiment_id
    place = f"#/experiments/{experiment}/runs?{MODE}" if experiment else "#/experiments"
    if tracking.artifacts is None:
        print(f"runs: {redact(tracking.uri).rstrip('/')}/{place}")
        return
    address = f"http://{mlflow_process.HOST}:{port}/"
    print(f"runs:   {address}{place}\ncharts: {address}{place}&compareRunsMode=CHART\nmodels: {address}#/models")
    variables = {"MLFLOW_BACKEND_STORE_URI": tracking.uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": tracking.artifacts}
    mlflow_process.serve(["server"], port, variables)
