"""The generated pages of the documentation: config keys, commands, data sources, Python.

`docs/conf.py` writes them before a build. Everything in them comes from the schemas, the parsers
and the docstrings; a key's reason is the ``#:`` comment above it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

HERE = Path(__file__).resolve().parent


def write_pages(folder: Path) -> None:
    """Write every generated page into ``folder``, where it differs from what is there."""
    pages = {
        "configs.md": config_page(),
        "sources.md": source_page(),
        "commands.md": command_page(),
        "python.md": python_page(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------- config keys


def config_page() -> str:
    """Every key of the configs of every task."""
    from resdet.detection.tasks.registry import TASKS

    parts = [
        "# Config keys",
        "A config names only what differs from these defaults. The same keys are overrides on a "
        "command line: `resdet train-det --cfg mine.yaml train.lr=0.01`. A task's config states "
        "`task: NAME` where its command trains more than one.",
    ]
    for name, task in TASKS.items():
        parts += [f"## {name}", f"Trained by `resdet {task.command}`.", _table(task.schema)]
    return "\n\n".join(parts) + "\n"


def source_page() -> str:
    """The keys of a source of each data format."""
    from resdet.datasets.formats import FORMATS

    parts = [
        "# Data sources",
        "`data.train`, `data.val` and `data.test` of a detector are lists of sources, "
        "`data.source` of a classifier or localizer is one. The key `format` decides which other "
        "keys there are.",
    ]
    for name, data_format in FORMATS.items():
        section = data_format.source
        parts += [f"## {name}", _prose(section), _table(section)]
    return "\n\n".join(parts) + "\n"


def _table(schema: type[BaseModel]) -> str:
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key, value, default, reason in config_keys(schema):
        rows.append(f"| `{key}` | {value} | {default} | {reason} |")
    return "\n".join(rows)


def config_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, what values it takes, default, reason) of every key, those of its sections included,
    as Markdown of a table's cells."""
    described = schema.model_json_schema()
    properties, definitions = described["properties"], described.get("$defs", {})
    for name, field in schema.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from config_keys(section, f"{prefix}{name}.")
            continue
        value = _values(properties[name], definitions)
        reason = _cell(" ".join(reasons(schema).get(name, "").split()).replace("``", "`"))
        yield f"{prefix}{name}", _cell(value), _cell(_default(field)), reason


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words. What has none is a source, whose keys depend on its format."""
    if not schema.keys() - {"title", "default"}:
        return "[source](sources.md)"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _values(definitions[name], definitions)
    if "anyOf" in schema or "oneOf" in schema:
        options = schema.get("anyOf") or schema["oneOf"]
        return " or ".join(dict.fromkeys(_values(each, definitions) for each in options))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`".replace('"', "")
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return _list(schema, definitions)
    if kind == "object" and "properties" in schema:
        return f"{{{', '.join(schema['properties'])}}}"
    if kind == "object":
        return f"{{name: {_values(schema['additionalProperties'], definitions)}}}"
    text = {"string": "text", "boolean": "true or false"}.get(kind, kind)
    if schema.get("format") == "path":
        text = "path"
    return f"{text}{_bounds(schema)}"


def _list(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        items = [_values(each, definitions) for each in schema["prefixItems"]]
        return f"[{', '.join(items)}]"
    if schema.get("maxItems") == 0:
        return "`[]`"
    return f"list of {_values(schema['items'], definitions)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    low = high = ""
    if "minimum" in schema:
        low = f"≥ {_number(schema['minimum'])}"
    if "exclusiveMinimum" in schema:
        low = f"> {_number(schema['exclusiveMinimum'])}"
    if "maximum" in schema:
        high = f"≤ {_number(schema['maximum'])}"
    if "exclusiveMaximum" in schema:
        high = f"< {_number(schema['exclusiveMaximum'])}"
    return f" {', '.join(filter(None, [low, high]))}" if low or high else ""


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e15 else f"{value:.0e}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(documented: object) -> str:
    return (inspect.getdoc(documented) or "").replace("``", "`")


@cache
def reasons(schema: type[BaseModel]) -> Mapping[str, str]:
    """The ``#:`` comment above each field of a section, in it or in a class it derives from."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _comments(base)
    return found


def _comments(base: type) -> dict[str, str]:
    lines = textwrap.dedent(inspect.getsource(base)).splitlines()
    found = {}
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = last = node.lineno - 1
            while lines[first - 1].strip().startswith("#:"):
                first -= 1
            words = [line.strip().removeprefix("#:").strip() for line in lines[first:last]]
            if words:
                found[node.target.id] = " ".join(words)
    return found


# ------------------------------------------------------------------------------------- commands


def command_page() -> str:
    """Every command with its options."""
    from importlib import import_module

    from resdet.tools.cli import COMMANDS

    parts = [
        "# Commands",
        "`resdet COMMAND --help` prints the same. Every command takes `--debug`, which shows the "
        "traceback of an error. [Exit codes](../faults.md) are those of all commands.",
    ]
    for name, module in COMMANDS.items():
        parts += [f"## {name}", _command(name, import_module(module))]
    return "\n\n".join(parts) + "\n"


def _command(name: str, tool: ModuleType) -> str:
    parser = argparse.ArgumentParser(prog=f"resdet {name}", add_help=False)
    tool.add_arguments(parser)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    usage = textwrap.fill(usage, 100, subsequent_indent="    ", break_on_hyphens=False)
    rows = ["| option | default | |", "|---|---|---|"]
    for action in parser._actions:
        names = ", ".join(f"`{each}`" for each in action.option_strings)
        value = _placeholder(action)
        label = names + (f" `{value}`" if names and value else "") if names else f"`{value}`"
        known = action.default not in (None, "", False, argparse.SUPPRESS) and action.default != []
        default = f"`{action.default}`" if known else ""
        rows.append(f"| {_cell(label)} | {_cell(default)} | {_cell(_plain(action.help or ''))} |")
    table = "\n".join(rows) if len(rows) > 2 else ""
    about = "\n\n".join(map(_paragraph, _prose(tool).split("\n\n")))
    return f"{about}\n\n```\n{usage}\n```\n\n{table}"


def _placeholder(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.choices is not None and action.metavar is None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _paragraph(text: str) -> str:
    """A paragraph of a docstring; an indented one is an example of a command."""
    return f"```\n{textwrap.dedent(text)}\n```" if text.startswith(" ") else _plain(text)


def _plain(text: str) -> str:
    """Text of a parser as Markdown, in which < and * would mean something."""
    return " ".join(text.split()).replace("%%", "%").replace("<", "\\<").replace("*", "\\*")


# --------------------------------------------------------------------------------------- Python


def python_page() -> str:
    """The public names of the package, from their docstrings."""
    import resdet

    names = [name for name in dir(resdet) if not name.startswith("_")]
    members = {name: getattr(resdet, name) for name in names}
    for name in [name for name, each in members.items() if isinstance(each, ModuleType)]:
        module = members.pop(name)
        members |= {f"{name}.{each}": getattr(module, each) for each in module.__all__}
    functions = [name for name, each in members.items() if not isinstance(each, type)]
    errors = [name for name, each in members.items() if name not in functions and _is_error(each)]
    classes = [name for name in members if name not in functions and name not in errors]
    parts = ["# Python", "`import resdet` takes no time; torch is loaded when a name is used."]
    for title, group in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        parts.append(f"## {title}")
        for name in group:
            kind = "autofunction" if group is functions else "autoclass"
            options = "" if group is functions else ":members:\n:inherited-members: Exception"
            parts.append(
                f"```{{eval-rst}}\n.. {kind}:: resdet.{name}\n" + _indented(options) + "```"
            )
    return "\n\n".join(parts) + "\n"


def _is_error(member: type) -> bool:
    return issubclass(member, Exception)


def _indented(options: str) -> str:
    return textwrap.indent(options, "   ") + "\n" if options else ""
