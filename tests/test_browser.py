"""The MLflow UI as `hpsearch ui` starts it, in headless Chromium."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import tiny
import tracked
from hpsearch.registry.promotion import promote
from hpsearch.tracking.runs import Tracking
from make import compose_settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; install it (Debian: apt-get install chromium)"),
]
# Without these, Chromium looks for its maker's hosts at each start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Otherwise the UI covers itself with an assistant's panel at its first start.
QUIET = """
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
"""
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `hpsearch ui` printed (runs, charts, models), while it runs on a promoted study of three trials."""
    home = tracked.new_home(tmp_path_factory.mktemp("home"))
    settings = compose_settings()
    tracking = Tracking(settings, home)
    ref = tracked.data_ref(home)
    parent = tracking.open_study(settings.study, "id", settings, ref, tracked.FACTS)
    trials = [tracked.run_trial(tracking, parent, number, settings) for number in range(3)]
    model = tiny.write_model("bert", home / "model")
    tracking.log_winner(trials[2], model, settings, ref, {"text": ["a good film"]}, "# a card\n")
    result = tracked.summary(settings, parent, trials[2], 0.85)
    tracked.finish(tracking, result, tracked.save_study(home, settings, trials, result))
    truths = [tracked.LABELS[i % 2] for i in range(40)]
    said = [tracked.LABELS[i % 2 if i % 7 else 0] for i in range(40)]
    assert trials[2].run_id is not None
    tracking.log_answers(trials[2].run_id, {"test": tracked.answers(truths, said)})
    promote(settings, home)

    port = tracked.free_port()
    code = (
        "import json; from pathlib import Path; from hpsearch.config import loading; from hpsearch.tracking import ui; "
        f"ui.ui(loading.from_plain(json.loads({settings.model_dump_json()!r})), Path(r'{home}'), {port})"
    )
    log = home / "ui.log"
    with tracked.process(code, f"http://127.0.0.1:{port}/health", log):
        found = dict(re.findall(r"^(\w+): +(http\S+)$", log.read_text(), re.MULTILINE))
        yield found | {"winner": f"{found['runs'].partition('?')[0]}/{trials[2].run_id}"}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.add_init_script(QUIET)
        yield page
        page.screenshot(path=tmp_path / "page.png")  # pytest keeps it: look there when a test fails
        browser.close()


def test_trials_are_nested_under_their_study(addresses: dict[str, str], page: Page) -> None:
    page.goto(addresses["runs"])
    study = page.get_by_role("link", name="imdb-minilm-default")
    expect(study).to_be_visible()
    expect(page.get_by_role("link", name="trial-2")).to_have_count(0)
    page.get_by_role("gridcell").filter(has=study).get_by_role("button").click()
    for number in range(3):
        expect(page.get_by_role("link", name=f"trial-{number}")).to_be_visible()


@pytest.mark.parametrize(("link", "seen"), [("runs", "Run Name"), ("charts", "Add section")])
def test_links_open_where_models_are_trained(addresses: dict[str, str], page: Page, link: str, seen: str) -> None:
    page.goto(addresses[link])
    expect(page.get_by_text(seen).first).to_be_visible()
    expect(page.get_by_role("link", name="Prompts")).to_have_count(0)


def test_a_metric_is_drawn(addresses: dict[str, str], page: Page) -> None:
    page.goto(f"{addresses['winner']}/model-metrics")
    expect(page.get_by_text("train_loss").first).to_be_visible()
    # The only metric with more than one point, so the only one whose path has segments, L in SVG.
    line = page.locator(".scatterlayer path.js-line[d*=L]")
    expect(line.first).to_be_visible()
    assert len(re.findall("[ML]", line.first.get_attribute("d") or "")) == 5


def test_the_champion_is_in_the_registry(addresses: dict[str, str], page: Page) -> None:
    page.goto(f"{addresses['models']}/hpsearch-imdb/versions/1")
    expect(page.get_by_text("champion").first).to_be_visible()
    expect(page.get_by_role("link", name="hpsearch-imdb")).to_be_visible()
    expect(page.get_by_role("link", name="trial-2")).to_be_visible()
