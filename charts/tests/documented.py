"""Holds a chart's values.yaml, values.schema.json and README.md together. Needs only Python's standard library.

    documented.py [--update] CHART [VALUES]

Every value has a comment that starts with `# --`; the schema knows exactly the values that there are, describes each
and is closed; README.md's table says what values.yaml says (--update writes it); and VALUES, a file for `helm -f`, sets
every one of them. What is wrong is printed, each with its place, and the exit status is 1.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- values: written by charts/test --update -->", "<!-- end of values -->"
KEY = re.compile(r"( *)([A-Za-z][\w-]*):(?: +(\S.*))?$")


class Key(NamedTuple):
    """A key of a values file: its own comment, and either the text of its value or the keys below it."""

    path: str
    doc: str
    text: str
    children: list

    def flow(self):
        inner = ", ".join(f"{child.path.rpartition('.')[2]}: {child.flow()}" for child in self.children)
        return self.text or "{" + inner + "}"

    def values(self):
        """What a user sets: a key with a comment is one value, whatever is below it; without one, what is below is."""
        if self.doc or not self.children:
            return [self]
        return [value for child in self.children for value in child.values()]

    def paths(self):
        return [self.path] + [path for child in self.children for path in child.paths()]


def read(path):
    """The top-level keys of a values file. Maps may be in block style; lists are in flow style, on their key's line."""
    top, open_maps, comment = [], [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if not line.strip():
            comment = []
            continue
        match = KEY.match(line)
        if not match:
            sys.exit(f"{path}:{number}: not `key: value` (a list is written in flow style here): {line.strip()}")
        indent, name, text = len(match[1]), match[2], match[3] or ""
        while open_maps and open_maps[-1][0] >= indent:
            open_maps.pop()
        siblings, prefix = (open_maps[-1][1].children, open_maps[-1][1].path + ".") if open_maps else (top, "")
        doc = " ".join(comment)
        key = Key(prefix + name, doc.removeprefix("-- ") if doc.startswith("-- ") else "", text, [])
        siblings.append(key)
        open_maps.append((indent, key))
        comment = []
    return top


def schema_at(schema, path):
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return None
    return schema


def schema_problems(schema, documented, path=""):
    """What the schema knows and values.yaml does not, where it is open, and what it does not describe."""
    if "properties" in schema and schema.get("additionalProperties") is not False:
        yield f"{path or 'the root'} is not closed: additionalProperties must be false"
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        if here == "global":
            continue  # Helm's own: given to every dependency
        if "description" not in below:
            yield f"{here} has no description"
        if here in documented:
            continue
        if any(value.startswith(here + ".") for value in documented):
            yield from schema_problems(below, documented, here)
        else:
            yield f"{here} is not in values.yaml"


def table(values):
    def cell(text):
        return text.replace("|", "\\|")

    rows = [f"| `{value.path}` | `{cell(value.flow())}` | {cell(value.doc)} |" for value in values]
    return "\n".join([BEGIN, "| Value | Default | What it is |", "|---|---|---|", *rows, END])


def main(arguments):
    update = "--update" in arguments
    chart, *cases = [Path(argument) for argument in arguments if argument != "--update"]
    values = [value for key in read(chart / "values.yaml") for value in key.values()]
    documented = {value.path for value in values}
    schema = json.loads((chart / "values.schema.json").read_text())
    problems = []

    for value in values:
        if not value.doc:
            problems.append(f"{chart}/values.yaml: {value.path} has no comment that starts with `# --`")
        if schema_at(schema, value.path) is None:
            problems.append(f"{chart}/values.schema.json: {value.path} is missing")
    problems += [f"{chart}/values.schema.json: {problem}" for problem in schema_problems(schema, documented)]

    readme = chart / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    written, end, after = rest.partition(END)
    if not (begin and end):
        problems.append(f"{readme}: no table of values, between the lines {BEGIN} and {END}")
    elif begin + written + end != table(values):
        if update:
            readme.write_text(before + table(values) + after)
        else:
            problems.append(f"{readme}: its table is not what values.yaml says; run charts/test --update")

    for case in cases:
        here = {path for key in read(case) for path in key.paths()}
        problems += [f"{case}: sets no {value.path}" for value in values if value.path not in here]

    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
