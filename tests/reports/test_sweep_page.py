"""The page of a sweep holds what its runs left: table, figures, and the labels in doubt."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from configs import digits
from l2rw_jax import data, reports
from l2rw_jax.training import RunError, train_and_evaluate, train_seeds
from l2rw_jax.training.prepare import prepare, with_seed
from l2rw_jax.training.workdir import read_weights


def _config():
    config = digits.get_config("smoke")
    config.update(model="mlp-16", steps=200, log_every=100, eval_every=200, checkpoint_every=200)
    config.boundaries = ()
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_and_evaluate(_config(), folder)
    return folder


@pytest.fixture(scope="module")
def doubts(run):
    return reports.most_doubted(_config(), run)


def test_doubts_are_the_examples_with_the_lowest_margins(run, doubts):
    assert len(doubts) == 20
    arrays, (run_data, _) = read_weights(run), prepare(_config())
    margin = np.where(arrays["count"] > 0, arrays["mean_margin"], np.inf)
    true = data.load("digits").train_labels
    for row, doubt in zip(np.argsort(margin), doubts, strict=False):
        index = run_data.train.index[row]
        np.testing.assert_array_equal(doubt.image, run_data.images[index])
        assert doubt.given == str(run_data.train.label[row])
        assert doubt.true == str(true[index])
        assert (doubt.true != doubt.given) == arrays["corrupted"][row]
        assert doubt.weight == pytest.approx(100 * arrays["mean_weight"][row])


def test_what_the_network_says_is_the_last_checkpoint_s(doubts):
    # Of ten classes, what is most probable is above a tenth. A network that had not been restored
    # would name the true class of one in ten.
    assert all(0.1 < doubt.probability <= 1 for doubt in doubts)
    assert sum(doubt.says == doubt.true for doubt in doubts) > 10
    assert sum(doubt.says == doubt.given for doubt in doubts) < 5


@pytest.mark.slow  # one program more to compile
def test_seeds_that_trained_as_one_program_have_their_own_network(tmp_path):
    config = _config()
    folders = [tmp_path / f"l2rw/seed{seed}" for seed in range(2)]
    train_seeds(config, folders, together=True)
    assert not (folders[1] / "checkpoints").exists()
    second = reports.most_doubted(with_seed(config, 1), folders[1])
    alone = tmp_path / "alone"
    train_and_evaluate(with_seed(config, 1), alone)
    expected = reports.most_doubted(with_seed(config, 1), alone)
    assert [d.given for d in second] == [d.given for d in expected]
    assert [d.says for d in second] == [d.says for d in expected]
    np.testing.assert_allclose(
        [d.probability for d in second], [d.probability for d in expected], rtol=0.02
    )


def test_without_pictures_data_or_checkpoints_nothing_is_shown(run, tmp_path):
    streamed = _config()
    streamed.stream = True
    assert reports.most_doubted(streamed, run) == []
    moved = _config()
    moved.dataset = "npz:moved.npz"
    assert reports.most_doubted(moved, run) == []
    (tmp_path / "weights.npz").write_bytes((run / "weights.npz").read_bytes())
    assert reports.most_doubted(_config(), tmp_path) == []


@pytest.mark.parametrize(("channels", "shown"), [(1, True), (2, False), (3, True), (5, False)])
def test_only_gray_and_colour_pictures_are_shown(tmp_path, channels, shown):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 1000), ("test", 50)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, 8, 8, channels), np.uint8)
        arrays[f"{part}_labels"] = np.arange(n) % 10
    np.savez(tmp_path / "a.npz", **arrays)
    config = _config()
    config.dataset = f"npz:{tmp_path}/a.npz"
    if shown:  # it goes on, to a folder that holds no run
        with pytest.raises(RunError, match=r"weights\.npz cannot be read"):
            reports.most_doubted(config, tmp_path)
    else:
        assert reports.most_doubted(config, tmp_path) == []


class _Page(HTMLParser):
    """The pictures, the cells of the table and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.images, self.cells, self.text, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.images += [dict(attrs)] if tag == "img" else []
        self.inside = tag in ("td", "th")
        self.cells += [""] if self.inside else []

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.cells[-1] += data


def _write(tmp_path, doubts, **fields):
    figure = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(figure)
    arguments = {
        "title": "t",
        "lead": "l",
        "command": "c",
        "header": ["a", "b"],
        "rows": [["1", "2"]],
    }
    arguments |= {"figures": {"curves": figure}, "doubts": doubts, "source": "l2rw/seed0"} | fields
    reports.write_page(tmp_path / "report.html", **arguments)
    return (tmp_path / "report.html").read_text()


def test_the_page_shows_each_doubt_and_asks_the_net_for_nothing(tmp_path, doubts):
    text = _write(tmp_path, doubts)
    page = _Page(text)
    assert page.cells == ["a", "b", "1", "2"]
    assert [image["alt"] for image in page.images[:1]] == ["curves"]
    pictures = page.images[1:]
    for image, doubt in zip(pictures, doubts, strict=True):
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), doubt.image[..., 0])
    shown = re.findall(r"(\d) → (\d)([\d.]+) % sureweight ([\d.]+)true: (\d) ([✓✗])", page.text)
    assert shown == [
        (
            *(d.given, d.says, f"{100 * d.probability:.1f}", f"{d.weight:.2f}", d.true),
            "✓" if d.says == d.true else "✗",
        )
        for d in doubts
    ]
    wrong = sum(d.true != d.given for d in doubts)
    assert f"{wrong} of these 20 are wrong" in page.text
    assert not re.search(r"https?:|<script|<link rel=.stylesheet|url\(", text)


def test_what_comes_from_the_data_is_escaped(tmp_path, doubts):
    evil = '<script>"&$title'
    doubt = doubts[0]._replace(given=evil, says=evil, true=evil)
    table = {"header": [evil], "rows": [[evil]]}
    text = _write(tmp_path, [doubt], title=evil, lead=evil, command=evil, source=evil, **table)
    assert "<script" not in text
    page = _Page(text)
    assert evil in page.text and page.cells == [evil, evil]


def test_true_labels_that_nobody_knows_are_not_shown(tmp_path, doubts):
    text = _write(tmp_path, [doubt._replace(true=None) for doubt in doubts])
    assert "true:" not in text and "are wrong" not in text
    assert "doubts most" not in _write(tmp_path, [])


@pytest.mark.slow  # a browser to start
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_screen(tmp_path, doubts, scheme):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromedriver") or not shutil.which("chromium"):
        pytest.skip("needs chromium and chromedriver")
    head = [f"a column {i}" for i in range(8)]
    _write(tmp_path, doubts, header=head, rows=[head], title="a_name_without_a_space" * 8)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for width in (375, 1440):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(f"file://{tmp_path}/report.html")
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            images = "return [...document.images].map(i => i.naturalWidth)"
            assert min(driver.execute_script(images)) > 0  # the policy lets all of them in
        assert driver.get_log("browser") == []
