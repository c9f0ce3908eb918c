"""Directives for the tables that the code is the source of: config fields and command lines."""

import contextlib
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ASSIGNED = re.compile(r"config\.(\S+?)(?:, config\.(\S+))? = (?P<value>.*?)(?:  # (?P<comment>.*))?")


def config_fields(source: str, defaults: dict) -> Iterator[list[tuple[str, object, str]]]:
    """The fields of ``default_config`` with default and comment, in the paragraphs of its source.

    Raises:
      ValueError: a field has no comment.
    """
    for paragraph in source.split("\n\n"):
        rows = []
        for line in paragraph.splitlines():
            found = ASSIGNED.fullmatch(line.strip())
            if not found or found["value"] == "ConfigDict()":
                continue
            if not found["comment"]:
                raise ValueError(f"{line.strip()}: this field has no comment; write one behind it")
            rows += [(n, defaults[n], found["comment"]) for n in found.group(1, 2) if n]
        if rows:
            yield rows


class ConfigFields(SphinxDirective):
    """All fields of a run's config, a table for each paragraph of the code."""

    has_content = True  # a title for each table, a line each

    def run(self) -> list[nodes.Node]:
        from l2rw_jax.training import config

        self.env.note_dependency(config.__file__)
        tables = list(
            config_fields(
                inspect.getsource(config.default_config),
                config.flatten(config.default_config().to_dict()),
            )
        )
        made: list[str] = []
        for title, rows in zip(self.content, tables, strict=True):
            made += [f"**{title}**", ""]
            cells = [(f"`{name}`", f"`{value!r}`", says) for name, value, says in rows]
            made += [*table(["field", "default", "what it is"], cells), ""]
        return self.parse_text_to_nodes("\n".join(made))


class Flags(SphinxDirective):
    """The flags of a program of ``experiments``, as it tells them itself."""

    required_arguments = 1
    option_spec = {"own": directives.flag}  # without those that all programs share

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", self.arguments[0], "--helpxml"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        cells = []
        for flag in ElementTree.fromstring(told).iter("flag"):
            texts = {each.tag: (each.text or "").strip() for each in flag}
            shared = texts["file"] in ("experiments.cli", "experiments.processes")
            if "experiments" in texts["file"] and not (shared and "own" in self.options):
                default = f"`{texts['default']}`" if texts["default"] else ""
                cells.append((f"`--{texts['name']}`", default, texts["meaning"]))
        return self.parse_text_to_nodes("\n".join(table(["flag", "default", "what it is"], cells)))


class AuditHelp(SphinxDirective):
    """What ``l2rw-audit --help`` prints."""

    def run(self) -> list[nodes.Node]:
        from l2rw_jax.audit import command

        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            command.main(["--help"])
        return [nodes.literal_block(text=printed.getvalue(), language="none")]


def table(header: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return [f"| {' | '.join(line)} |" for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("flags", Flags)
    app.add_directive("audit-help", AuditHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
