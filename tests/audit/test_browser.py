"""The page in a browser: labels are checked by keyboard alone, and the next audit reads them."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
from made_up import CLASSES, blobs, write_images, write_labels

pytest.importorskip("selenium")
if not shutil.which("chromedriver") or not shutil.which("chromium"):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        _wait_for_storage(driver, downloads.parent / "blank.html")
        yield driver
    finally:
        driver.quit()


def _wait_for_storage(driver, page):
    """A browser that has just started, on a busy machine, may forget what a page stores."""
    page.write_text("<!doctype html><title>blank</title>")
    driver.get(f"file://{page}")
    for _ in range(20):
        driver.execute_script("localStorage.setItem('kept', '1')")
        time.sleep(0.1)
        driver.refresh()
        if driver.execute_script("return localStorage.getItem('kept')") == "1":
            return
    pytest.skip("this browser keeps no storage for files")


def press(browser, *keys):
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def text(browser, name):
    return browser.find_element("id", name).text


def focus(browser, selector):
    """Moves the focus by Tab, as who has no mouse does, and sees that it is visible."""
    target = browser.find_element("css selector", selector)
    for _ in range(40):
        if browser.switch_to.active_element == target:
            assert target.value_of_css_property("outline-style") == "solid"
            return
        press(browser, Keys.TAB)
    raise AssertionError(f"{selector} is not reached by Tab")


def silent(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []


def test_ten_rows_are_checked_by_keyboard_and_change_the_next_audit(
    tmp_path, features, audit, browser, downloads
):
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    arguments += ("--id_column=id",)
    assert audit(*arguments, f"--output={tmp_path}/audit")[0] == 0
    browser.get(f"file://{tmp_path}/audit/report.html")
    focus(browser, "[data-list=issues]")
    press(browser, Keys.ENTER)
    table = pd.read_csv(tmp_path / "audit/issues.csv").set_index("id")
    expected, keys = {}, [*"ttkt", "1", "2", "s", *"tkt"]
    rows = list(table.index[: len(keys)])
    for row, key in zip(rows, keys, strict=True):
        assert text(browser, "name") == row
        before, suggested = text(browser, "given"), text(browser, "suggested")
        assert (before, suggested) == tuple(table.loc[row, ["given_label", "predicted_label"]])
        press(browser, key)
        choice = {"t": suggested, "k": before, "1": CLASSES[0], "2": CLASSES[1], "s": None}[key]
        if choice:
            expected[row] = choice
        assert text(browser, "status").startswith(
            {"t": f"Took {suggested}. ", "k": f"Kept {before}. ", "s": "Skipped. "}.get(
                key, f"Label is {choice}. "
            )
        )
    # Back and forth, undone and done again; the list of classes.
    press(browser, Keys.ARROW_LEFT, "u", "u")
    assert text(browser, "name") == rows[8]
    press(browser, "k", "c")
    assert browser.switch_to.active_element.tag_name == "select"
    press(browser, "c")  # by its first letter
    assert text(browser, "progress").startswith("8 of ")
    press(browser, Keys.ENTER)
    expected[rows[9]] = "cat"
    progress = text(browser, "progress")
    assert progress.startswith("9 of ")

    time.sleep(0.5)  # the browser writes its storage in the background
    browser.refresh()  # what was checked is kept
    stored = browser.execute_script("return Object.keys(localStorage)")
    assert text(browser, "progress") == progress, stored
    focus(browser, "#download")
    press(browser, Keys.ENTER)
    checked = downloads / "checked.csv"
    for _ in range(100):
        if checked.exists():
            break
        time.sleep(0.05)
    found = pd.read_csv(checked).set_index("id")
    assert found["label"].to_dict() == expected and set(found["list"]) <= {"first", "issues"}
    assert silent(browser)

    again = audit(*arguments, f"--trusted={checked}", f"--output={tmp_path}/again")
    assert again[0] == 0, again
    after = pd.read_csv(tmp_path / "again/issues.csv").set_index("id")
    assert set(after.index[after["trusted"]]) == set(expected)
    corrected = pd.read_csv(tmp_path / "again/corrected.csv").set_index("id")["label"]
    for row, label in expected.items():
        assert corrected[row] == label
    checked.unlink()


def test_a_label_that_looks_like_code_comes_back_whole(tmp_path, audit, browser, downloads):
    names = np.array(["=1+1", "<b>b</b>", "a_quote_'"])
    X, _, given = blobs()
    np.save(tmp_path / "x.npy", X)
    write_labels(tmp_path / "labels.csv", names[given])
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    assert audit(*arguments, f"--output={tmp_path}/audit")[0] == 0
    browser.get(f"file://{tmp_path}/audit/report.html")
    press(browser, *"2222")
    press(browser, *"111")
    assert text(browser, "progress").startswith("7 of ")
    focus(browser, "#download")
    press(browser, Keys.ENTER)
    checked = downloads / "checked.csv"
    for _ in range(100):
        if checked.exists():
            break
        time.sleep(0.05)
    content = checked.read_text()
    classes = sorted(names)
    assert content.count('"\'=1+1"') == (4 if classes[1] == "=1+1" else 3)
    again = audit(*arguments, f"--trusted={checked}", f"--output={tmp_path}/again")
    assert again[0] == 0, again
    checked.unlink()
    assert silent(browser)


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["images", "features"])
def test_it_fits_and_can_be_read(tmp_path, audit, browser, width, scheme, kind):
    if kind == "images":
        write_images(tmp_path / "set", {"ant": 30, "bee": 30, "cat": 30})
        rows = (f"--images={tmp_path}/set", "--size=8")
    else:
        X, _, given = blobs(classes=20, d=20)
        np.save(tmp_path / "x.npy", X)
        names = np.array([f"a_class_whose_name_is_long_number_{i}" for i in range(20)])
        write_labels(tmp_path / "labels.csv", names[given])
        rows = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    assert audit(*rows, f"--output={tmp_path}/audit")[0] == 0
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(f"file://{tmp_path}/audit/report.html")
    scroll = browser.execute_script("return document.documentElement.scrollWidth")
    assert scroll <= width
    for selector in ("#given", "#suggested", "dd", ".soft", ".queue .to", "button.main"):
        ratio = browser.execute_script(CONTRAST, selector)
        assert ratio >= 4.5, (selector, ratio)
    assert silent(browser)


# The contrast of an element's text with what lies behind it, by WCAG 2.
CONTRAST = """
const element = document.querySelector(arguments[0]);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => {
  const v = [r, g, b][i] / 255;
  return sum + part * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
}, 0);
let behind = element;
const clear = (one) => (numbers(getComputedStyle(one).backgroundColor)[3] ?? 1) === 0;
while (behind && clear(behind)) behind = behind.parentElement;
const a = light(numbers(getComputedStyle(element).color));
const b = light(numbers(getComputedStyle(behind || document.body).backgroundColor));
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""
