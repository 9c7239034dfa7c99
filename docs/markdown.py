"""Docstrings, signatures and settings as Markdown."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from caviar.core.settings import Settings
from caviar.recipe.explain import allowed
from caviar.recipe.values import toml_value

WIDTH = 100
HANGING: Any = {"initial_indent": "    ", "subsequent_indent": "    ", "break_long_words": False}
PLAIN = (int, float, str, bool, tuple, type(None))
ARGUMENT = re.compile(r"\n(?=[a-z]\w*(, [a-z]\w*)*: )")
"""The end of a line before one that begins with the names of arguments: there the text goes on in a new line."""
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


def reference(path: str, thing: Any) -> str:
    """Return the entry of one public function or class: how it is called, and its docstring."""
    parts = [f"### `{path}`"]
    if isinstance(thing, type) or inspect.isroutine(thing):
        parts.append(f"```python\n{call(path.rpartition('.')[2], thing)}\n```")
    parts.append(text(thing.__doc__ or ""))
    if isinstance(thing, type):
        parts += [_method(name, method) for name, method in _methods(thing)]
    return "\n\n".join(parts)


def call(name: str, thing: Callable[..., Any]) -> str:
    """Return `name(arguments=defaults)`, as one calls it; types are said in words, in the docstring."""
    parameters = []
    star = False
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parameters.append("*")
            star = True
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        parameters.append(mark + parameter.name + _default(parameter))
    said = f"{name}({', '.join(parameters)})"
    return said if len(said) <= WIDTH else f"{name}(\n{textwrap.fill(', '.join(parameters), WIDTH, **HANGING)}\n)"


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    return f"={parameter.default!r}" if isinstance(parameter.default, PLAIN) else "=..."


def _methods(kind: type) -> Iterable[tuple[str, Any]]:
    """Return the public methods and properties that the class itself defines and describes."""
    for name, member in vars(kind).items():
        if not name.startswith("_") and name != "forward" and getattr(member, "__doc__", None):
            plain = isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
            if plain and not _is_inherited_word(kind, name):
                yield name, member


def _is_inherited_word(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__[1:])


def _method(name: str, member: Any) -> str:
    if isinstance(member, property):
        said = f"`{name}`"
    else:
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        said = f"`{' '.join(call(name, function).split()).replace('(cls, ', '(').replace('(cls)', '()')}`"
    return f"- {said}: {_joined(inspect.cleandoc(member.__doc__).splitlines())}"


def text(docstring: str) -> str:
    """Return a docstring as Markdown: paragraphs, indented formulas as code, Args and their like as lists."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(part for block in blocks for part in _block(block.splitlines()))


def _block(lines: Sequence[str]) -> Iterable[str]:
    if all(line.startswith("    ") for line in lines):
        yield "```text\n" + inspect.cleandoc("\n".join(["", *lines])) + "\n```"
        return
    found = SECTION.match(lines[0])
    if found and len(lines) > 1:
        yield f"**{found[1]}**"
        yield "\n".join(f"- {_entry(entry)}" for entry in _entries(lines[1:]))
        return
    yield escaped(ARGUMENT.sub("\\\\\n", "\n".join(lines)))


def _entries(lines: Sequence[str]) -> list[str]:
    """Return what begins at the least indent, each with what hangs below it."""
    entries: list[str] = []
    for line in lines:
        if line.startswith("     ") and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    return entries


def _entry(entry: str) -> str:
    name, colon, rest = entry.partition(": ")
    if not colon or not re.fullmatch(r"[\w, .()]+", name):
        return escaped(entry)
    return f"`{name}`: {escaped(rest)}"


def _joined(lines: Iterable[str]) -> str:
    return escaped(" ".join(line.strip() for line in lines if line.strip()))


def escaped(words: str) -> str:
    """Return text whose signs mean themselves; what stands between backquotes is code already."""
    parts = words.split("`")
    for index in range(0, len(parts), 2):
        parts[index] = parts[index].replace("*", r"\*").replace("<", "&lt;")
    return "`".join(parts)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are text that means itself."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(escaped(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def settings_table(kind: type[Settings]) -> str:
    """Return the keys of a recipe's section: what they stand at, what is allowed, and what they mean."""
    rows = []
    schemas = kind.model_json_schema()["properties"]
    for name, field in kind.model_fields.items():
        default = "" if field.is_required() else toml(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", f"`{default}`" if default else "", allowed(schemas[name]), field.description or ""))
    return table(("key", "default", "allowed", "meaning"), rows)


def toml(value: Any) -> str:
    """Return a value as a recipe writes it."""
    return toml_value(value)
