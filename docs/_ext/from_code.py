"""What the site takes from the repository: config fields, command lines, links to results."""

import contextlib
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

NAME = r"config\.(\S+?)"
ASSIGNED = re.compile(rf"{NAME}(?:, {NAME})? = (?P<value>.*?)(?:  # (?P<comment>.*))?")
TABLE_LINK = re.compile(r"\[`?([^\]`]+)`?\]\(((?:\.\./)+results/[\w-]+\.md)\)")


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

    def run(self) -> list[nodes.Node]:  # noqa: D102
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
    """The flags of a program of ``experiments``, without those that all programs share."""

    required_arguments = 1
    shared = False

    def run(self) -> list[nodes.Node]:  # noqa: D102
        command = [sys.executable, "-m", self.arguments[0], "--helpxml"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        cells = []
        for flag in ElementTree.fromstring(told).iter("flag"):
            texts = {each.tag: (each.text or "").strip() for each in flag}
            shared = texts["file"] in ("experiments.cli", "experiments.processes")
            if shared if self.shared else "/experiments/" in texts["file"]:
                default = f"`{texts['default']}`" if texts["default"] else ""
                cells.append((f"`--{texts['name']}`", default, texts["meaning"]))
        return self.parse_text_to_nodes("\n".join(table(["flag", "default", "what it is"], cells)))


class SharedFlags(Flags):
    """The flags that all programs share."""

    shared = True


class AuditHelp(SphinxDirective):
    """What ``l2rw-audit --help`` prints."""

    def run(self) -> list[nodes.Node]:  # noqa: D102
        from l2rw_jax.audit import command

        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            command.main(["--help"])
        return [nodes.literal_block(text=printed.getvalue(), language="none")]


def link_tables(app: Sphinx, docname: str, source: list[str]) -> None:
    """Makes links to results/*.md downloads, as MyST does for all files but Markdown."""
    source[0] = TABLE_LINK.sub(r"{download}`\1 <\2>`", source[0])


def hide_fields(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Leaves the signature of a NamedTuple out: its docstring lists the fields."""
    return ("", "") if isinstance(obj, type) and issubclass(obj, tuple) else None


def table(header: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return [f"| {' | '.join(line)} |" for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("flags", Flags)
    app.add_directive("shared-flags", SharedFlags)
    app.add_directive("audit-help", AuditHelp)
    app.connect("source-read", link_tables)
    app.connect("autodoc-process-signature", hide_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
