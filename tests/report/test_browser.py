"""The page in a real headless browser: no errors, no requests, a slider that moves numbers and pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lungfast.report.writing import write_report
from tests.report.material import material

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    return write_report(material(hostile="<b>&</script>"), folder)[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where it, its driver or selenium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver: the page is not tested in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture
def opened(browser: Any, page: str) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(page)
    WebDriverWait(browser, 30).until(
        lambda session: session.execute_script("return document.documentElement.dataset.ready === 'yes'")
    )
    return browser


def frame(browser: Any) -> None:
    """Wait until the page has drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def state(browser: Any) -> tuple[str, str, str, list[str]]:
    """The shown threshold, the first row's validation F1, a chart's marker, the examples' pixels."""
    frame(browser)
    script = """return [
      document.getElementById('threshold-value').textContent,
      document.querySelector('#at-threshold td[data-line=val_f1]').textContent,
      document.querySelector('line.slider').getAttribute('x1'),
      [...document.querySelectorAll('figure canvas')].map((canvas) => canvas.toDataURL())]"""
    return tuple(browser.execute_script(script))  # type: ignore[return-value]


def test_it_opens_without_an_error_and_without_the_network(browser: Any, opened: Any, page: str) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert page in urls
    assert all(url == page or url.startswith("data:") for url in urls)
    assert opened.execute_script("return document.scripts.length") == 2


def test_the_keyboard_moves_numbers_charts_and_masks(opened: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    before = state(opened)
    opened.find_element(By.ID, "threshold").send_keys(Keys.ARROW_RIGHT * 12)
    after = state(opened)
    curve = material().sets["montgomery"]["cv"]["rows"][0]["curve"]
    i = [round(value, 2) for value in curve["thresholds"]].index(float(after[0]))
    assert float(after[0]) == pytest.approx(float(before[0]) + 0.12)
    assert after[1] == f"{curve['val_f1'][i]:.3f}"
    assert float(after[2]) > float(before[2])
    assert len(after[3]) == 16
    assert all(one != other for one, other in zip(before[3], after[3], strict=True))
    opened.find_element(By.ID, "own").send_keys(Keys.ENTER)
    assert state(opened)[3] == before[3]
    assert opened.get_log("browser") == []


def test_a_shown_mask_scores_what_it_should(opened: Any) -> None:
    text = opened.execute_script("return document.querySelector('[data-live]').textContent")
    example = material().examples["montgomery"][0]
    found = example.prob_HW > 255 * example.threshold
    f1 = 2 * (found & example.truth_HW).sum() / (found.sum() + example.truth_HW.sum())
    assert text == f"{f1:.3f} at {example.threshold:.2f}"


@pytest.mark.parametrize(
    ("width", "scheme"), [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")]
)
def test_it_fits_the_window_and_its_text_can_be_read(
    browser: Any, page: str, width: int, scheme: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    frame(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script((Path(__file__).parent / "contrast.js").read_text()) == []
