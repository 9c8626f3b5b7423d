"""The rooms and what may pass between them, held by reading the source as trees.

Each rule is a pure function from sources {path: text} to a list of faults. It is run twice: on this
repository, where it must find nothing, and on planted faults, which it must find.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("sae", "data", "interp", "ui", "commands")

# room -> the rooms it may import
BELOW = {
    "sae": {"sae"},
    "data": {"data"},
    "interp": {"interp", "sae", "data"},
    "ui": {"ui", "interp", "data"},
    "commands": {"commands", "ui", "interp", "sae", "data"},
}
# room -> packages that none of its files may name, not even inside a function
NEVER_NAMED = {
    "sae": {"duckdb", "streamlit", "transformers", "plotly"},
    "data": {"streamlit", "plotly"},
    "interp": {"duckdb", "streamlit", "plotly"},
    "ui": {"torch", "transformers", "duckdb"},
    "commands": {"streamlit"},
}
# room -> packages that importing its files must not load, however many files lie in between
NEVER_LOADED = {
    "sae": {"duckdb", "streamlit", "transformers", "plotly"},
    "data": {"streamlit", "plotly"},
    "interp": {"duckdb", "streamlit", "plotly"},
    "ui": {"torch", "transformers", "sae"},
    "commands": {"streamlit"},
}
# packages that a room may name inside a function only
LAZY = {
    "data": {"datasets"},
    "interp": {"statsmodels", "transformers", "google", "openai"},
    "commands": {"torch", "transformers"},
}
# package -> the only files of the program that may name it
ONLY_IN = {
    "streamlit": r"ui/pages/(panels/)?\w+\.py|ui/shell\.py|app\.py",
    "duckdb": r"data/schema\.py|data/\w+_store\.py",
    "triton": r"sae/kernels\.py",
}


def program() -> dict[str, str]:
    """path -> text of every Python file of the program, without tests and benchmarks."""
    paths = [p for room in ROOMS for p in (REPOSITORY / room).rglob("*.py")]
    paths += [REPOSITORY / "app.py", REPOSITORY / "run.py"]
    return {str(p.relative_to(REPOSITORY)): p.read_text(encoding="utf-8") for p in paths}


# -- what a file imports


def imports(path: str, text: str, sources: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """(module or package, inside a function?) of each import; our own ones as paths."""
    for node, lazy in _nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield _ours(name, sources) or name.split(".")[0], lazy


def _nodes(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes with whether they stand in a function; what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield node, lazy
        yield from _nodes(node, inside)


def _ours(name: str, sources: dict[str, str]) -> str | None:
    """`data.schema.Root` -> "data/schema.py"; None for a package from elsewhere."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        stem = "/".join(parts[:n])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in sources:
                return path
    return None


def _room(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def _graph(sources: dict[str, str], lazily: bool) -> dict[str, set[str]]:
    """path -> what it imports, inside functions too if `lazily`."""
    return {
        path: {name for name, lazy in imports(path, text, sources) if lazily or not lazy}
        for path, text in sources.items()
    }


# -- the rules


def room_faults(sources: dict[str, str]) -> list[str]:
    """Imports that the table of rooms forbids."""
    faults = []
    for path, text in sources.items():
        room = _room(path)
        for name, lazy in imports(path, text, sources):
            ours = name.endswith(".py")
            wrong = (
                (ours and room in BELOW and _room(name) not in BELOW[room])
                or (not ours and name in NEVER_NAMED.get(room, ()))
                or (not ours and not lazy and name in LAZY.get(room, ()))
                or (not ours and name in ONLY_IN and not re.fullmatch(ONLY_IN[name], path))
            )
            if wrong:
                faults.append(f"{path} imports {name}")
    return faults


def reach_faults(sources: dict[str, str]) -> list[str]:
    """Files whose import would load what their room must do without, with the way there."""
    graph, faults = _graph(sources, lazily=False), []
    for start in sources:
        never = NEVER_LOADED.get(_room(start), set())
        ways = {start: [start]}
        queue = [start]
        while queue:
            path = queue.pop(0)
            for name in sorted(graph.get(path, ())):
                if name not in ways:
                    ways[name] = [*ways[path], name]
                    queue.append(name)
                    if (_room(name) if name.endswith(".py") else name) in never:
                        faults.append(" -> ".join(ways[name]))
    return faults


def cycle_faults(sources: dict[str, str]) -> list[str]:
    """Import cycles, those through functions included."""
    graph, done, faults = _graph(sources, lazily=True), set(), []

    def visit(path: str, way: list[str]) -> None:
        if path in way:
            faults.append(" -> ".join([*way[way.index(path) :], path]))
        elif path in graph and path not in done:
            for name in sorted(graph[path]):
                visit(name, [*way, path])
            done.add(path)

    for path in sources:
        visit(path, [])
    return faults


def init_faults(sources: dict[str, str]) -> list[str]:
    return [p for p, text in sources.items() if p.endswith("__init__.py") and text.strip()]


# What a constant may be made with. A name in capitals is a class: its constructor makes a record.
PURE = re.compile(
    r"re\.compile|field|dataclasses\.field|frozenset|set|tuple|dict|list|range|len|sorted|sum|min|max"
    r"|zip|enumerate|float|int|fields|math\.\w+|pa\.\w+|(\w+\.)*[A-Z]\w*|torch\.(finfo|iinfo)"
)
PURE_METHODS = {"with_name", "with_suffix", "resolve", "split", "strip", "join", "format", "items",
                "keys", "values", "encode", "lower", "upper", "union"}  # fmt: skip


def import_work_faults(sources: dict[str, str]) -> list[str]:
    """Module-level statements that do more than import, define and name constants.

    app.py is the exception: Streamlit runs it from top to bottom.
    """
    faults = []
    for path, text in sources.items():
        if path != "app.py":
            for node in _at_import(ast.parse(text).body):
                faults.append(f"{path}:{node.lineno} {ast.unparse(node)[:60]}")
    return faults


def _at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements and calls of a module or class body that do work."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)):
            continue
        if isinstance(node, ast.ClassDef):
            yield from _at_import(node.body)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from _impure_calls(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _impure_calls(node.args)  # the default values
        elif isinstance(node, ast.Try):  # an optional package
            for part in (node.body, *(h.body for h in node.handlers), node.orelse):
                yield from _at_import(part)
        elif isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if test != "__name__ == '__main__'" and "TYPE_CHECKING" not in test:
                yield node
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node


def _impure_calls(node: ast.AST) -> Iterator[ast.Call]:
    for part, lazy in _nodes(node):
        if isinstance(part, ast.Call) and not lazy and not _pure(part):
            yield part


def _pure(call: ast.Call) -> bool:
    called = call.func
    if isinstance(called, ast.Attribute) and called.attr in PURE_METHODS:
        return True
    return PURE.fullmatch(ast.unparse(called)) is not None


SQL = re.compile(
    r"\b(SELECT\s.*\sFROM|INSERT INTO|DELETE FROM|UPDATE\s+\w+\s+SET|CREATE (TEMP |OR REPLACE )?"
    r"(TABLE|VIEW|INDEX)|DROP (TABLE|VIEW)|ALTER TABLE|(ATTACH|DETACH)\s+'?\w|COPY\s.*\s(TO|FROM)|"
    r"ORDER BY|LEFT JOIN|GROUP BY)\b|^\s*(?i:select\s.*\sfrom\s|insert into\s|delete from\s)",
    re.DOTALL,
)


def sql_faults(sources: dict[str, str]) -> list[str]:
    """Strings, docstrings apart, that look like SQL outside the files made for it."""
    faults = []
    for path, text in sources.items():
        if not re.fullmatch(ONLY_IN["duckdb"], path):
            tree = ast.parse(text)
            docs = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(
                    node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
                )
                and isinstance(node.body[0] if node.body else None, ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    if id(node) not in docs and SQL.search(node.value):
                        faults.append(f"{path}:{node.lineno} {node.value[:60]!r}")
    return faults


# Where this was made and where its packages came from: of no use to whoever reads it elsewhere.
MACHINE = [
    "/".join(["", "work", ""]),
    "/".join(["", "opt", "wheels"]),
    "/".join(["", "opt", "pypi"]),
]
REGISTRIES = [
    ".".join(["pypi", "org"]),
    "python" + "hosted",
    ".".join(["download", "pytorch", "org"]),
]


def machine_faults(sources: dict[str, str]) -> list[str]:
    return [
        f"{path} contains {word}"
        for path, text in sources.items()
        for word in [*MACHINE, *REGISTRIES]
        if word in text
    ]


RULES = [room_faults, reach_faults, cycle_faults, init_faults, import_work_faults, sql_faults]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_program_keeps_the_rule(rule):
    sources = program()
    assert len(sources) > 30, "the program should be found"
    assert rule(sources) == []


PLANTED = [
    (room_faults, {"sae/x.py": "import data.y", "data/y.py": ""}),
    (room_faults, {"data/x.py": "def f():\n    from sae import y", "sae/y.py": ""}),
    (room_faults, {"interp/x.py": "from ui.y import z", "ui/y.py": ""}),
    (room_faults, {"ui/x.py": "def f():\n    import torch.nn as nn"}),
    (room_faults, {"ui/x.py": "import streamlit as st"}),
    (room_faults, {"commands/x.py": "import duckdb"}),
    (room_faults, {"data/x.py": "from datasets import load_dataset"}),
    (room_faults, {"interp/x.py": "class C:\n    import transformers"}),
    (room_faults, {"sae/x.py": "try:\n    import triton\nexcept ImportError:\n    triton = None"}),
    (
        reach_faults,
        {"ui/x.py": "from interp import a", "interp/a.py": "import interp.b",
         "interp/b.py": "if True:\n    from torch import nn", "interp/__init__.py": ""},
    ),
    (reach_faults, {"ui/x.py": "import interp.a", "interp/a.py": "import sae.b", "sae/b.py": ""}),
    (reach_faults, {"interp/x.py": "import data.a", "data/a.py": "import duckdb"}),
    (cycle_faults, {"data/a.py": "import data.b", "data/b.py": "def f():\n    import data.a"}),
    (init_faults, {"sae/__init__.py": "from sae.jump import jump"}),
    (import_work_faults, {"sae/x.py": "import torch\nDEVICE = torch.device('cpu')"}),
    (import_work_faults, {"data/x.py": "TEXT = open('x').read()"}),
    (import_work_faults, {"data/x.py": "print('hello')"}),
    (import_work_faults, {"data/x.py": "def f(x=load()):\n    return x"}),
    (import_work_faults, {"data/x.py": "class C:\n    table = load()"}),
    (import_work_faults, {"data/x.py": "for i in range(3):\n    pass"}),
    (import_work_faults, {"data/x.py": "from data.y import f\nX = [f(1)]", "data/y.py": ""}),
    (import_work_faults, {"data/x.py": "from pathlib import Path\nX = Path('a').read_text()"}),
    (sql_faults, {"ui/x.py": "q = 'SELECT a FROM b'"}),
    (sql_faults, {"commands/x.py": "def f(t):\n    return f'select * from {t} limit 1'"}),
    (sql_faults, {"data/x.py": "q = 'WITH t AS (SELECT 1) SELECT * FROM t'"}),
    (machine_faults, {"docs/x.md": f"see {MACHINE[0]}x"}),
    (machine_faults, {"requirements.txt": f"--index-url https://{REGISTRIES[0]}/simple"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "sources"), PLANTED)
def test_a_planted_fault_is_found(rule, sources):
    assert rule(sources) != []


def test_what_is_allowed_is_not_found():
    sources = {
        "sae/__init__.py": "",
        "sae/x.py": '"""SELECT a FROM b"""\nimport torch\nfrom dataclasses import dataclass\n'
        "@dataclass\nclass C:\n    a: int = 1\nPRESETS = {'c': C(2)}\nF = lambda: open('x')\n"
        "if __name__ == '__main__':\n    print(F())\n",
        "interp/x.py": "from sae import x\ndef f():\n    import transformers\n",
        "ui/x.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from interp import x\n"
        "WORDS = 'what you select is taken from the list'",
        "ui/pages/y.py": "import streamlit\ndef f():\n    from interp import x\n",
        "data/a_store.py": "import duckdb\nQ = 'SELECT a FROM b'",
    }
    for rule in [*RULES, machine_faults]:
        assert rule(sources) == [], rule


def test_no_file_names_this_machine_or_a_registry():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout: which files belong to the project cannot be told")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    texts = {str(p): p.read_bytes().decode("latin-1") for p in paths if p.is_file()}
    assert len(texts) > 50
    assert machine_faults(texts) == []


def test_importing_every_page_loads_no_torch():
    modules = [p[:-3].replace("/", ".") for p in program() if p.startswith("ui/")]
    modules = [m.removesuffix(".__init__") for m in modules]
    app = ast.parse((REPOSITORY / "app.py").read_text())
    lines = [ast.unparse(n) for n in app.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    # In one line each: `from __future__` must come first, the rest in any order.
    lines += [f"import {module}" for module in modules]
    loaded = "sorted(m for m in ('torch', 'transformers', 'sae') if m in sys.modules)"
    code = "\n".join([*lines, "import sys", f"print({loaded}, 'ui.pages.feature' in sys.modules)"])
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.stdout.split("\n")[-2:-1] == ["[] True"], process.stderr
