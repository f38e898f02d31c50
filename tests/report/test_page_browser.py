"""The page in a real browser: no errors or connections, hostile text stays text, all by mouse and by keyboard."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_world import HOSTILE, World, make_world, many_records
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from grobust.experiments.records import read_records
from grobust.experiments.report import PageReport, run_report
from grobust.experiments.report_config import ReportConfig
from grobust.experiments.report_features import _packed
from grobust.report.page.render import render_page
from grobust.report.page.sections import content_of_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(str(DRIVER)))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def report(world: World, tmp_path_factory: pytest.TempPathFactory) -> PageReport:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return run_report(
        ReportConfig(
            records=(world.records,), out=out, stores=(world.store,), heads=(world.heads,), datasets=("metadata_csv",),
            data_dir=world.data_dir, title=f"Title {HOSTILE}", examples=5,
        )
    )  # fmt: skip


@pytest.fixture
def page(driver: Chrome, report: PageReport) -> Chrome:
    opened(driver, report.out)
    return driver


def opened(driver: Chrome, path: Path) -> None:
    driver.get_log("browser")
    driver.get(path.as_uri())
    assert driver.execute_script("return document.documentElement.dataset.ready") == "true"
    driver.execute_script("localStorage.clear()")


def tip(driver: Chrome) -> str | None:
    element = driver.find_element(By.ID, "tip")
    return element.text if element.is_displayed() else None


def shown(driver: Chrome, selector: str) -> WebElement:
    return centred(driver, driver.find_element(By.CSS_SELECTOR, selector))


def centred(driver: Chrome, element: WebElement) -> WebElement:
    """The element in the middle of the window, once the event of scrolling there is over: it closes tooltips."""
    driver.execute_async_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'});"
        "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[1], 20)))",
        element,
    )
    return element


def hover(driver: Chrome, element: WebElement, x: float = 0, y: float = 0) -> str:
    """The tooltip of a place; the pointer moves on by a pixel until there is one, as a hand does."""
    for nudge in range(10):
        ActionChains(driver, duration=0).move_to_element_with_offset(element, int(x) + nudge % 2, int(y)).perform()
        text = tip(driver)
        if text is not None:
            return text
        time.sleep(0.05)
    return ""


def test_it_opens_without_errors_or_connections(page: Chrome, report: PageReport) -> None:
    page.get_log("performance")
    page.refresh()
    assert page.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} <= {report.out.as_uri()}
    ids = [e.get_attribute("id") for e in page.find_elements(By.CSS_SELECTOR, "main > section")]
    assert ids == ["summary", "methods", "curves", "groups", "spectra", "features", "examples", "runs", "reading"]
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-chart] svg, [data-chart] canvas")) >= 6


def test_hostile_text_stays_text(page: Chrome) -> None:
    time.sleep(0.2)
    assert page.execute_script("return window.pwned") is None
    # The data, and our own script; an element of the data's making would be one more.
    assert len(page.find_elements(By.TAG_NAME, "script")) == 2
    assert page.find_elements(By.CSS_SELECTOR, "img[src='x'], [onerror], [onload]") == []
    assert page.title == f"Title {HOSTILE}"
    texts = [e.text for e in page.find_elements(By.CSS_SELECTOR, "#examples .text")]
    assert any(text.startswith(HOSTILE) for text in texts)
    cells = {e.text for e in page.find_elements(By.CSS_SELECTOR, "#group-table td:nth-child(3)")}
    assert any(HOSTILE in cell for cell in cells)


def test_no_foreign_script_can_run(page: Chrome) -> None:
    """The policy of the page, should markup come through after all."""
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 2'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    time.sleep(0.2)
    assert page.execute_script("return window.pwned") is None
    blocked = [entry["message"] for entry in page.get_log("browser")]
    assert sum("Content Security Policy" in message for message in blocked) == 2


def column(driver: Chrome, table: str, number: int) -> list[str]:
    cells = f"#{table} tbody tr td:nth-child({number})"
    found: list[str] = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", cells
    )
    return found


def test_columns_sort_both_ways_by_number_and_by_text(page: Chrome) -> None:
    head = shown(page, "#group-table th:nth-child(5)")
    before = [float(v) for v in column(page, "group-table", 5)]
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(v) for v in column(page, "group-table", 5)] == sorted(before, reverse=True)
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in column(page, "group-table", 5)] == sorted(before)
    methods = page.find_element(By.CSS_SELECTOR, "#group-table th:nth-child(2) button")
    methods.send_keys(Keys.ENTER)
    found = column(page, "group-table", 2)
    assert found == sorted(found)
    assert head.get_attribute("aria-sort") is None


def test_the_filter_leaves_rows_with_all_words(page: Chrome) -> None:
    field = page.find_element(By.CSS_SELECTOR, "[data-filters=group-table]")
    field.send_keys('mixture p"q')
    rows = page.find_elements(By.CSS_SELECTOR, "#group-table tbody tr:not([hidden])")
    assert 0 < len(rows) < len(page.find_elements(By.CSS_SELECTOR, "#group-table tbody tr"))
    assert all("mixture" in row.text and 'p"q' in row.text for row in rows)


def test_a_row_of_a_chart_says_its_numbers(page: Chrome, world: World) -> None:
    record = next(r for r in read_records(world.records, command="probe") if r["results"]["method"] == "none")
    wga = record["results"]["test"]["wga"]["value"]
    (row,) = [
        e for e in page.find_elements(By.CSS_SELECTOR, "[data-chart=wga] g[tabindex]")
        if (e.get_attribute("aria-label") or "").startswith(f"none; worst-group accuracy {100 * wga:.1f}%")
    ]  # fmt: skip
    assert f"worst-group accuracy {100 * wga:.1f}%" in hover(page, centred(page, row))
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert tip(page) is None


def test_a_curve_is_read_by_pointer_and_by_arrow_keys(page: Chrome, world: World) -> None:
    runs = [r["results"] for r in read_records(world.records, command="trajectory") if r["results"]["method"] == "none"]
    first, last = (100 * np.mean([r["epochs"]["test"]["wga"][i] for r in runs]) for i in (0, -1))
    chart = shown(page, "[data-chart=curves] svg[tabindex]")
    text = hover(page, chart, chart.size["width"] / 2 - 12)
    assert text.startswith("epoch 6")
    assert f"none: {last:.4g}" in text
    assert hover(page, shown(page, "h1")) == ""
    chart = shown(page, "[data-chart=curves] svg[tabindex]")
    page.execute_script("arguments[0].focus()", chart)
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert (tip(page) or "").startswith("epoch 1")
    assert f"none: {first:.4g}" in (tip(page) or "")
    ActionChains(page).send_keys(Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_LEFT).perform()
    assert (tip(page) or "").startswith("epoch 5")
    assert page.find_element(By.ID, "live").get_attribute("textContent").startswith("epoch 5")


def test_keys_hide_and_show_lines(page: Chrome) -> None:
    button = shown(page, "[data-chart=curves] .legend button")
    lines = lambda: len(page.find_elements(By.CSS_SELECTOR, "[data-chart=curves] > div > div:first-child path.line"))  # noqa: E731
    drawn = lines()
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    assert lines() == drawn - 1


def background(driver: Chrome) -> tuple[int, ...]:
    color = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    return tuple(int(v) for v in color[4:-1].split(","))


def test_light_dark_and_as_the_system_says(page: Chrome) -> None:
    def system(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    button = page.find_element(By.ID, "theme")
    system("dark")
    assert max(background(page)) < 60
    system("light")
    assert background(page) == (255, 255, 255)
    button.send_keys(Keys.ENTER, Keys.ENTER)
    assert button.text == "Theme: dark"
    assert max(background(page)) < 60
    page.refresh()
    assert page.find_element(By.ID, "theme").text == "Theme: dark"
    page.find_element(By.ID, "theme").click()
    assert page.find_element(By.ID, "theme").text == "Theme: auto"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_whole_page_is_reached_by_tab(page: Chrome) -> None:
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(200):
        ActionChains(page, duration=0).send_keys(Keys.TAB).perform()
        found = page.execute_script(
            "const e = document.activeElement; const s = e.closest('section');"
            "return [e.tagName.toLowerCase(), s ? s.id : '', e.id]"
        )
        reached.add(tuple(found[:2]))
        if found[2] == "theme":
            reached.add(("theme", ""))
        if found[0] == "summary" and "Labels" in page.switch_to.active_element.text:
            break
    assert {("theme", ""), ("g", "methods"), ("svg", "curves"), ("button", "groups"), ("g", "spectra"),
            ("canvas", "features"), ("summary", "runs")} <= reached  # fmt: skip


def test_all_runs_and_the_settings_of_each(page: Chrome, report: PageReport, world: World) -> None:
    assert page.find_elements(By.CSS_SELECTOR, "#run-table tbody tr") == []
    shown(page, "#runs-details > summary").click()
    rows = page.find_elements(By.CSS_SELECTOR, "#run-table tbody tr")
    assert len(rows) == report.runs == len(read_records(world.records))
    page.execute_script("arguments[0].click()", rows[0].find_element(By.TAG_NAME, "button"))
    settings = json.loads(page.find_element(By.ID, "run-shown").get_attribute("textContent"))
    recorded = read_records(world.records)[0]["config"]
    assert settings["config"] == recorded | {k: Path(recorded[k]).name for k in ("store", "records", "save")}
    assert settings["provenance"]["backbone"] == HOSTILE


def test_points_say_what_they_are(page: Chrome) -> None:
    canvas = shown(page, "[data-chart=scatter] canvas")
    page.execute_script("arguments[0].focus()", canvas)
    ActionChains(page).send_keys(".").perform()
    first = tip(page)
    assert first is not None
    assert "row-0" in first
    ActionChains(page).send_keys(".").perform()
    assert "row-1" in (tip(page) or "")
    inked = "const c = arguments[0]; const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    inked += "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n;"
    page.execute_script("arguments[0].blur()", canvas)
    time.sleep(0.2)
    before = page.execute_script(inked, canvas)
    for button in page.find_elements(By.CSS_SELECTOR, "[data-chart=scatter] .legend button")[:4]:
        page.execute_script("arguments[0].click()", button)
    time.sleep(0.2)
    assert 0 == page.execute_script(inked, canvas) < before


def test_it_prints_in_light_colours(page: Chrome) -> None:
    page.find_element(By.ID, "theme").send_keys(Keys.ENTER, Keys.ENTER)
    page.execute_script(
        "window.seen = []; addEventListener('beforeprint', () => seen.push(document.documentElement.dataset.theme))"
    )
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(printed) > 20_000
    assert page.execute_script("return window.seen") == ["light"]
    assert page.execute_script("return document.documentElement.dataset.theme") == "dark"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert background(page) == (255, 255, 255)
    assert not page.find_element(By.TAG_NAME, "nav").is_displayed()
    # The button of a head is no box there, or sheets after the first have no head.
    head = page.find_element(By.CSS_SELECTOR, "#group-table th button")
    assert head.value_of_css_property("display") == "contents"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_thousand_records_and_fifty_thousand_points(driver: Chrome, world: World, tmp_path: Path) -> None:
    content = content_of_records(many_records(world, 1000), title="large", made="now", facts=(), notes=())
    rng = np.random.default_rng(1)
    n = 50_000
    scatter = {
        "title": "large", "label": "large", "caption": "", "n": n,
        "xy": _packed(rng.integers(65536, size=(n, 2)).astype("<u2")),
        "group": _packed(rng.integers(8, size=n).astype("<u2")),
        "split": _packed(rng.integers(3, size=n).astype(np.uint8)),
        "splits": [0, 1, 2], "wrong": _packed(rng.integers(2, size=n).astype(np.uint8)), "ids": None,
        "groups": [f"g{i}" for i in range(8)], "counts": [n // 8] * 8,
    }  # fmt: skip
    path = tmp_path / "large.html"
    path.write_text(render_page(replace(content, scatter=(scatter,))), encoding="utf-8")
    started = time.perf_counter()
    opened(driver, path)
    # A loaded machine is slow; on an idle one this is well below a second.
    assert time.perf_counter() - started < 15
    canvas = shown(driver, "[data-chart=scatter] canvas")
    assert hover(driver, canvas, 20, 10).startswith("g")
    frame = driver.execute_async_script(
        "const t = performance.now(); REDRAW.forEach((draw) => draw()); arguments[0](performance.now() - t)"
    )
    assert frame < 1500
    shown(driver, "#runs-details > summary").click()
    assert len(driver.find_elements(By.CSS_SELECTOR, "#run-table tbody tr")) == 1000
    sorting = driver.execute_script(
        "const t = performance.now(); document.querySelector('#run-table th:nth-child(6) button').click();"
        "document.body.offsetHeight; return performance.now() - t"
    )
    assert sorting < 3000
    wga = [float(v) for v in column(driver, "run-table", 6)[:100] if v != "–"]
    assert wga == sorted(wga, reverse=True)
    assert driver.get_log("browser") == []
