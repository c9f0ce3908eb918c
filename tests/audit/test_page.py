"""The page: what is in it is escaped, what it shows follows from the table."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up import CLASSES, blobs
from stand_in import StandIn

from l2rw_jax.audit import charts
from l2rw_jax.audit.features import nearest_rows
from l2rw_jax.audit.output import GUESS, MEASURED, in_words, write_tables
from l2rw_jax.audit.report import SHOWN, write_report
from l2rw_jax.audit.table import run_audit

NASTY = np.array(
    ['"><script>alert(1)</script>', "=cmd|' /C calc'!A0", "</script><!--<b>{{data}}&amp;"]
)


def page(tmp_path, n=300, trusted=None, names=CLASSES, ids=None, picture=None):
    X, true, given = blobs(n)
    pair = (trusted, names[true]) if trusted is not None else None
    audit = run_audit(X, names[given], pair, ids=ids, classifier=StandIn())
    summary = write_tables(tmp_path, audit, {"command": "l2rw-audit --output=<audit>"})
    write_report(tmp_path / "report.html", audit, summary, X, picture)
    return audit, (tmp_path / "report.html").read_text()


def data(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_names_and_ids_from_outside_run_nothing(tmp_path):
    ids = np.array([f"<img src=x onerror=alert({i})>" for i in range(300)])
    _, text = page(tmp_path, names=NASTY, ids=ids)
    parser = Elements()
    parser.feed(text)
    tags = [tag for tag, _ in parser.found]
    assert tags.count("script") == 2 and "img" not in tags and "b" in tags
    assert not [name for _, attributes in parser.found for name in attributes if name[:2] == "on"]
    assert "<script>alert" not in text and "onerror=alert(0)>" not in text
    content = data(text)
    (embedded,) = re.findall(r'id="data">(.*?)</script>', text, re.S)
    assert not {"<", ">", "&"} & set(embedded)
    assert content["classes"] == sorted(NASTY)
    assert {card["id"] for card in content["cards"]} == set(ids)
    assert "&lt;audit&gt;" in text and "{{" not in text.replace("{{data}}", "")


def test_the_policy_lets_the_pages_own_script_run_and_no_other(tmp_path):
    _, text = page(tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; " in text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:|//)", text)


def test_cards_are_the_worst_rows_in_order(tmp_path):
    audit, text = page(tmp_path, n=800)
    content = data(text)
    worst = [content["cards"][i] for i in content["lists"]["issues"]]
    order = audit.table["label_score"].sort_values(kind="stable").index[:SHOWN]
    assert [card["id"] for card in worst] == [str(i) for i in order]
    for card, row in zip(worst, order, strict=True):
        assert content["classes"][card["given"]] == audit.table["given_label"][row]
        held_right = not audit.table["is_label_issue"][row] and (
            audit.table["predicted_label"][row] == audit.table["given_label"][row]
            or audit.table["label_score"][row] >= 0.5
        )
        suggested = None if held_right else list(content["classes"]).index(audit.suggested[row])
        assert card["suggested"] == suggested != card["given"]
        assert card["issue"] == audit.table["is_label_issue"][row]


def test_the_first_rows_to_check_are_of_all_scores(tmp_path):
    audit, text = page(tmp_path, n=800)
    content = data(text)
    first = [content["cards"][i] for i in content["lists"]["first"]]
    rank = audit.table["label_score"].rank().to_numpy()[[int(card["id"]) for card in first]]
    assert len(set(rank)) == 100
    np.testing.assert_array_equal(np.bincount(((rank - 1) // 80).astype(int)), 10)


def test_no_other_class_is_suggested_for_a_label_that_is_held_right(tmp_path):
    _, text = page(tmp_path, n=800)
    cards = data(text)["cards"]
    right = [card for card in cards if not card["issue"] and card["score"] > 0.5]
    assert len(right) > 100 and not [card for card in right if card["suggested"] is not None]
    assert all(card["suggested"] is not None for card in cards if card["issue"])


def test_a_share_without_verified_rows_is_called_a_guess_and_no_issue_is_doubted(tmp_path):
    _, text = page(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["wrong_share_is"] == GUESS and found["doubt"] is None
    assert GUESS in text and "Wrong, a guess" in text and GUESS in in_words(found)

    X, true, _ = blobs(300, noise=0, spread=0.1)
    audit = run_audit(X, CLASSES[true], classifier=StandIn())
    audit.table["is_label_issue"] = False
    found = write_tables(tmp_path, audit, {"command": ""})
    assert found["doubt"] and found["doubt"] in in_words(found)
    write_report(tmp_path / "report.html", audit, found, X, None)
    assert found["doubt"] in (tmp_path / "report.html").read_text()

    _, text = page(tmp_path, trusted=np.arange(300) < 100)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["wrong_share_is"] == MEASURED and "guess" not in in_words(found)
    assert MEASURED in text and "Wrong, a guess" not in text


def test_verified_rows_are_not_shown_again_but_are_neighbours(tmp_path):
    mask = np.arange(300) < 40
    _, text = page(tmp_path, trusted=mask)
    content = data(text)
    assert not content["lists"]["first"] and len(content["cards"]) == 260
    for card in content["cards"]:
        assert int(card["id"]) >= 40
        assert len(card["near"]) == 5 and all(int(row_id) < 40 for row_id, _ in card["near"])


def test_without_verified_rows_the_neighbours_have_the_suggested_class(tmp_path):
    audit, text = page(tmp_path)
    issue = audit.table["is_label_issue"]
    for card in data(text)["cards"]:
        for row_id, label in card["near"]:
            group = card["given"] if card["suggested"] is None else card["suggested"]
            assert label == group and not issue[int(row_id)] and row_id != card["id"]


def test_neighbours_are_scikit_learns(monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    from l2rw_jax.audit import features

    monkeypatch.setattr(features, "_ROWS", 512)  # several blocks
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4)).astype(np.float32) * [1, 10, 0.1, 3]
    rows, group = np.arange(20), rng.integers(0, 3, 500)
    found = nearest_rows(X, rows, group, group[rows])
    for row in rows:
        others = np.flatnonzero((group == group[row]) & (np.arange(500) != row))
        near = NearestNeighbors(n_neighbors=5).fit((X / X.std(0))[others])
        np.testing.assert_array_equal(
            found[row], others[near.kneighbors((X / X.std(0))[[row]])[1][0]]
        )
    none = nearest_rows(X, rows[:2], np.full(500, -1), np.array([-1, -1]))
    np.testing.assert_array_equal(none, -1)


@pytest.mark.parametrize("count", [3, 40])
def test_the_confusion_counts_every_issue(tmp_path, count):
    names = [f"class {i:02}" for i in range(count)]
    pairs = [{"given": names[0], "predicted": names[i], "issues": 100 + i} for i in range(1, count)]
    text = charts.confusion({"classes": dict.fromkeys(names), "confusion": pairs})
    assert ('class="matrix"' in text) == (count == 3)
    assert (">101<" in text) and f">{100 + min(count - 1, 30)}<" in text
    assert charts.confusion({"classes": {}, "confusion": []}) == "<p>No issues.</p>"


def test_the_histogram_counts_every_row():
    scores = np.array([0, 0.01, 0.049, 0.5, 0.999, 1.0])
    text = charts.histogram(scores, scores < 0.02)
    assert "score 0.00 to 0.05: 3 rows, 2 issues" in text
    assert "score 0.50 to 0.55: 1 rows, 0 issues" in text
    assert "score 0.95 to 1.00: 2 rows, 0 issues" in text


def test_pictures_are_small_and_missing_ones_are_allowed(tmp_path):
    from PIL import Image

    big = Image.effect_noise((300, 200), 50).convert("RGB")
    _, text = page(tmp_path, n=30, picture=lambda row_id: big.copy() if row_id != "3" else None)
    pictures = {card["id"]: card["picture"] for card in data(text)["cards"]}
    assert pictures["3"] is None
    import io

    kept = Image.open(io.BytesIO(base64.b64decode(pictures["4"].partition(",")[2])))
    assert kept.format == "PNG" and max(kept.size) == 96
