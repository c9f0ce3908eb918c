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


@pytest.fixture
def report(tmp_path, features, audit, browser):
    """The address of a page of 300 rows, none of which is checked."""
    browser.execute_script("localStorage.clear()")
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    assert audit(*arguments, "--id_column=id", f"--output={tmp_path}/audit")[0] == 0
    return f"file://{tmp_path}/audit/report.html"


def within(seconds, test):
    end = time.monotonic() + seconds
    while not test() and time.monotonic() < end:
        time.sleep(0.05)
    return test()


def test_two_tabs_keep_each_others_checks(report, browser):
    browser.get(report)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.get(report)
        second = browser.current_window_handle
        browser.switch_to.window(first)
        press(browser, *"kkkkk")
        browser.switch_to.window(second)
        assert within(10, lambda: text(browser, "progress").startswith("5 of "))
        assert len(browser.find_elements("css selector", ".queue .done")) == 5
        press(browser, "s", *"12k")  # the first again, which is skipped, and three more
        browser.switch_to.window(first)
        assert within(10, lambda: text(browser, "progress").startswith("7 of "))
        name = text(browser, "name")
        press(browser, "u")  # only what this tab did, and only if it is still so
        assert text(browser, "name") != name and text(browser, "progress").startswith("6 of ")
        for tab in (second, first):
            browser.switch_to.window(tab)
            browser.refresh()
            assert text(browser, "progress").startswith("6 of ")
        assert silent(browser)
    finally:
        browser.switch_to.window(second)
        browser.close()
        browser.switch_to.window(first)


def test_what_another_tab_changed_is_not_undone(report, browser):
    browser.get(report)
    press(browser, "k")
    row = browser.execute_script("return cards[lists[list][0]].id")
    browser.execute_script("receive(arguments[0], JSON.stringify(classes[0]))", row)  # its event
    given = browser.execute_script("return classes[cards[lists[list][0]].given]")
    press(browser, "u")
    told = text(browser, "status")
    assert told.startswith(
        "Undone" if given == CLASSES[0] else "Changed in another tab: not undone"
    )


STRANGE = ["{}", "1", "[]", '"x"', "null", "", "{", "[[]]", "true", '{"labels": 3}', "\\u0000", "-"]


def test_a_storage_of_any_shape_does_not_stop_the_page(report, browser):
    browser.get(report)
    names = "[key, ...lists[list].map((index) => `${key}/${cards[index].id}`)]"
    fill = f"for (const name of {names}) localStorage.setItem(name, arguments[0])"
    faults = []
    for strange in STRANGE:
        browser.execute_script(fill, strange)
        browser.refresh()
        skipped = len(browser.find_elements("css selector", ".queue .skip"))
        press(browser, *"k1")  # null is what a skipped row has
        told = text(browser, "progress"), skipped
        if not told[0].startswith("2 of ") or skipped != (100 if strange == "null" else 0):
            faults.append((strange, told))
        browser.execute_script("localStorage.clear()")
    assert not faults and silent(browser)
    # Without any storage the page says so.
    browser.execute_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
    press(browser, "k")
    assert "keeps nothing: download before you close" in text(browser, "progress")
    browser.execute_script("localStorage.clear()")


def test_no_class_is_suggested_for_a_label_that_is_held_right(report, browser):
    browser.get(report)
    place = browser.execute_script(
        "return lists[list].findIndex((index) => cards[index].suggested === null)"
    )
    browser.execute_script("go(arguments[0])", place)
    assert text(browser, "suggested") == "none" and "suggested none" in text(browser, "status")
    assert not browser.find_element("css selector", "[data-act=take]").is_enabled()
    assert not browser.find_elements("css selector", "[aria-current] .to")
    before = text(browser, "progress")
    press(browser, "t")
    assert text(browser, "status").startswith("Nothing is suggested here")
    assert text(browser, "progress") == before
    assert silent(browser)


def test_hostile_names_run_no_script_and_ask_no_network(tmp_path, audit, browser, downloads):
    names = np.array(
        [
            "<img src=//example.com/a onerror=document.title='ran'>",
            "</script><script>document.title='ran'</script>",
            '\'=HYPERLINK("//example.com")',
        ]
    )
    ids = [f"{names[i % 3]}{i}" for i in range(298)] + ["=r0", "'=r0"]
    X, _, given = blobs()
    np.save(tmp_path / "x.npy", X)
    frame = pd.DataFrame({"id": ids, "label": names[given]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    arguments += ("--id_column=id",)
    assert audit(*arguments, f"--output={tmp_path}/audit")[0] == 0
    browser.get(f"file://{tmp_path}/audit/report.html")
    rows = browser.execute_script("return cards.map((card) => card.id)")
    assert set(rows) == set(ids)
    browser.execute_script("lists[list].forEach((_, i) => { go(i); choose(i % 3); })")
    resources = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert not [name for name in resources if not name.startswith("data:")]
    assert browser.title == "Label audit"
    browser.execute_script("document.getElementById('download').click()")
    checked = downloads / "checked.csv"
    assert within(10, checked.exists)
    again = audit(*arguments, f"--trusted={checked}", f"--output={tmp_path}/again")
    assert again[0] == 0, again
    table = pd.read_csv(tmp_path / "again/issues.csv", dtype=str)
    assert (table["trusted"] == "True").sum() == len(checked.read_text().splitlines()) - 1 > 90
    checked.unlink()
    assert silent(browser)


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["images", "features"])
def test_it_fits_and_can_be_read(tmp_path, audit, browser, width, scheme, kind):
    if kind == "images":
        write_images(tmp_path / "set", {"ant": 30, "bee": 30, "cat": 30})
        (tmp_path / "set/ant/ant3.png").rename(tmp_path / "set/bee/wrong.png")  # is suggested
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
