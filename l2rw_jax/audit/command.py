"""The command ``l2rw-audit``: reads files, audits their labels, writes a folder."""

import argparse
import contextlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from l2rw_jax._messages import reason
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.folder import opened, put
from l2rw_jax.audit.output import in_words, write_tables
from l2rw_jax.audit.pictures import say_of_pictures
from l2rw_jax.audit.predict import predict
from l2rw_jax.audit.report import write_report
from l2rw_jax.audit.rows import Rows, check_flags, read_rows
from l2rw_jax.audit.table import run_audit
from l2rw_jax.audit.walk import is_utf8

EPILOG = """examples:
  l2rw-audit --images=photos --output=audit
  l2rw-audit --features=x.npy --labels=labels.csv --label_column=label --output=audit
  l2rw-audit --tfds=cifar10 --output=audit
  l2rw-audit --images=photos --trusted=checked.csv --output=audit
  l2rw-audit --predict=audit --features=new.npy --output=predictions.csv"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise AuditError(f"{message}; see l2rw-audit --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; a mistake is one line on standard error.

    Args:
        argv: the arguments; None is the process's.

    Returns:
        The exit status: 0, or 1 after an error.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _printed_warnings():
            flags = _parse(argv)
            predict(flags) if flags.predict else _audit(flags, shlex.join(["l2rw-audit", *argv]))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _printed_warnings() -> Iterator[None]:
    """Prints each UserWarning as one line on standard error, once."""
    show, told = warnings.showwarning, set()

    def print_line(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        line = str(message).strip().partition("\n")[0]
        if not issubclass(category, UserWarning):
            show(message, category, *where, **more)
        elif line not in told:
            told.add(line)
            print(f"warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = print_line
        yield


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        "l2rw-audit",
        description="Finds wrong labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument("--images", type=_path, help="folder of images, one subfolder a class")
    rows.add_argument("--features", type=_path, help="a table, .npy or .npz of numbers")
    rows.add_argument("--tfds", type=_text, help="a TFDS set prepared as array_record")
    rows.add_argument("--data_dir", type=_text, help="where --tfds finds its sets")
    rows.add_argument("--size", type=_size, default=32, help="side of --images for the model; 32")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labels", type=_path, help="table of the rows' labels")
    labels.add_argument("--label_column", type=_text, default="label", help="default: label")
    labels.add_argument("--id_column", type=_text, help="default: an id is the row's number")
    labels.add_argument(
        "--trusted",
        type=_path,
        action="append",
        default=[],
        help="table id,label of verified rows; may be given again, then the later one counts",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=_text, help="network, such as mlp-256 or resnet-20")
    model.add_argument("--steps", type=_steps, help="training steps; default: by the rows")
    model.add_argument("--predict", type=_path, help="an audit whose model labels the rows")
    parser.add_argument("--output", type=_output, required=True, help="folder to write")
    repeated = [arg.partition("=")[0] for arg in argv if arg.startswith("--")]
    for flag in repeated:
        if flag != "--trusted" and repeated.count(flag) > 1:
            raise AuditError(f"{flag}: given more than once")
    return parser.parse_args(argv)


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"got {text!r}; give a name")
    return text


def _output(text: str) -> Path:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give a name in UTF-8") from None
    return _path(text)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"got {text!r}; give a path")
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, which is not UTF-8; rename it")
    return Path(text).expanduser()


def _size(text: str) -> int:
    return _integer(text, 4, 512)


def _steps(text: str) -> int:
    return _integer(text, 1, 10**7)


def _integer(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"got {text!r}; give an integer in {least}..{most}")
    return int(text)


def _classifier(flags: argparse.Namespace) -> Any:
    from l2rw_jax.classifier import ReweightClassifier

    both = {"model": flags.model, "steps": flags.steps}
    chosen = {name: value for name, value in both.items() if value is not None}
    return ReweightClassifier(verbose=sys.stderr.isatty(), **chosen)


def _audit(flags: argparse.Namespace, command: str) -> None:
    check_flags(flags)
    with opened(flags.output, _inputs(flags)) as folder:
        rows = read_rows(flags, folder)
        _say(f"{len(rows.ids)} rows, {len(np.unique(rows.labels))} classes, ", rows)
        classifier = _classifier(flags)
        pair = (rows.trusted, rows.true_labels) if rows.trusted.any() else None
        audit = run_audit(
            rows.X, rows.labels, pair, ids=rows.ids, classifier=classifier, chosen=rows.chosen
        )
        facts = {
            "command": command,
            "image_size": flags.size if flags.images and not flags.features else None,
            **(rows.recipe.facts() if rows.recipe else {"feature_columns": None}),
            "columns_left_out": rows.left_out,
            "unreadable": rows.unreadable,
        }
        with put(folder) as scratch:
            classifier.save(scratch / "model")
            summary = write_tables(scratch, audit, facts)
            write_report(scratch / "report.html", audit, summary, rows.X, rows.picture)
    print(in_words(summary))
    if verified := summary["trusted_rows"]:
        print(f"{summary['steering_rows']} of {verified} verified rows steered the training")
    print(f"Open {flags.output / 'report.html'}")


def _inputs(flags: argparse.Namespace) -> dict[str, list[Path]]:
    """The files that are read, by their flags."""
    single = {f"--{name}": [getattr(flags, name)] for name in ("features", "labels")}
    given = {flag: paths for flag, paths in single.items() if paths[0]}
    return given | {"--trusted": flags.trusted}


def _say(text: str, rows: Rows) -> None:
    for note in rows.notes:
        print(note, file=sys.stderr)
    say_of_pictures(rows.unreadable, rows.X)
    print(f"{text}{int(rows.trusted.sum())} trusted; training ...", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
