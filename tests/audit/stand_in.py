"""A quick classifier with the interface of ReweightClassifier, around logistic regression."""

import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression


class StandIn:
    def __init__(self, model="mlp-256", *, steps=None, verbose=False):
        self.model, self.steps = model, steps

    def fit(self, X, y, trusted=None):
        rows, labels = _flat(X), np.asarray(y)
        weights = np.ones(len(labels))
        if isinstance(trusted, tuple):  # verified rows count ten times
            rows = np.concatenate([rows, _flat(trusted[0])])
            labels = np.concatenate([labels, trusted[1]])
            weights = np.concatenate([weights, np.full(len(trusted[1]), 10.0)])
        elif trusted is not None:
            weights[trusted] = 10
        fitted = LogisticRegression(C=0.3, solver="newton-cholesky").fit(rows, labels, weights)
        self.classes_, self.n_features_in_ = fitted.classes_, np.shape(X)[1]
        binary = len(self.classes_) == 2  # two columns that softmax takes
        coef = np.concatenate([-fitted.coef_, fitted.coef_]) / 2 if binary else fitted.coef_
        bias = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2 if binary else None
        self.coef, self.bias = coef, fitted.intercept_ if bias is None else bias
        probabilities = self.predict_proba(X)
        given = np.searchsorted(self.classes_, y)
        self.label_quality_ = np.take_along_axis(probabilities, given[:, None], 1)[:, 0]
        self.weights_ = self.label_quality_ / self.label_quality_.mean()
        return self

    def predict_proba(self, X):
        logits = _flat(X) @ self.coef.T + self.bias
        logits = np.exp(logits - logits.max(1, keepdims=True))
        return logits / logits.sum(1, keepdims=True)

    def save(self, folder):
        Path(folder).mkdir()
        np.savez(Path(folder) / "model.npz", coef=self.coef, bias=self.bias)
        config = {"classes": self.classes_.tolist(), "columns": self.n_features_in_}
        (Path(folder) / "config.json").write_text(json.dumps(config))

    @classmethod
    def load(cls, folder):
        self = cls()
        with np.load(Path(folder) / "model.npz") as arrays:
            self.coef, self.bias = arrays["coef"], arrays["bias"]
        config = json.loads((Path(folder) / "config.json").read_text())
        self.classes_, self.n_features_in_ = np.array(config["classes"]), config["columns"]
        return self


def _flat(X):
    rows = np.asarray(X)
    if rows.ndim == 4:
        step = max(1, rows.shape[1] // 4)
        rows = rows[:, ::step, ::step] / 255
    return rows.reshape(len(rows), -1).astype(np.float64)
