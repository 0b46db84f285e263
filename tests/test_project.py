"""Rules of the project that no single module can keep: imports, layers, docs that stay true."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import trlaunch
import trlaunch.errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trlaunch"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "triton", "cuda", "hip", "elftools", "msgpack", "rich", "typer", "jinja2", "matplotlib")

# Which parts may import what is only there with an extra, or is slow.
ROOMS = {
    "torch": (),
    "triton": ("trlaunch/lowering/",),
    "cuda": ("trlaunch/cuda/",),
    "hip": ("trlaunch/hip/",),
    "typer": ("trlaunch/cli/",),
    "matplotlib": ("trlaunch/dump/", "trlaunch/emulator/"),
    "rich": ("trlaunch/cli/", "trlaunch/tuning/progress.py"),
    "jinja2": ("trlaunch/investigate/html/",),
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """Files under version control; outside a checkout, those of the package and the tests."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        names = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        paths = [ROOT / name for name in names.decode().split("\0") if name]
    else:
        paths = [p for folder in ("trlaunch", "tests", "docs", "examples") for p in (ROOT / folder).rglob("*")]
    return [p for p in paths if p.is_file() and "__pycache__" not in p.parts]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python as on a machine without a GPU: what the docs show does not depend on the one at hand."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


# --- imports ---------------------------------------------------------------------------------------------------------


def test_importing_trlaunch_loads_nothing_heavy():
    code = f"import sys, trlaunch; print([m for m in {HEAVY} if m in sys.modules])"
    found = python("-W", "error", "-c", code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_every_public_name_can_be_had_without_a_framework():
    code = (
        "import sys, trlaunch\n"
        "for name in trlaunch.__all__: getattr(trlaunch, name)\n"
        "print([m for m in ('torch', 'triton', 'cuda', 'hip', 'rich', 'typer') if m in sys.modules])"
    )
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"
    assert set(trlaunch.__all__) <= set(dir(trlaunch))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_stays_in_its_room(path):
    tree = ast.parse(path.read_text())
    for name in imports(tree):
        package = name.partition(".")[0]
        if package in ROOMS:
            assert relative(path).startswith(ROOMS[package]), f"{relative(path)} imports {name}"


def top_level_imports(path: Path) -> Iterator[str]:
    """Modules of trlaunch that one of its modules imports when it is imported itself."""
    stack: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.If, ast.Try)):
            stack += node.body + node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("trlaunch"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trlaunch"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if module_path(inner) else node.module


def module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def layers() -> list[list[str]]:
    """The layers of docs/architecture.md, lowest first: its code block that begins with "lowest"."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = next(b for b in re.findall(r"```text\n(.*?)```", text, re.S) if b.startswith("lowest"))
    return [line.partition(":")[2].split() for line in block.splitlines()]


def layer_of(module: str, order: list[list[str]]) -> int:
    """Position of a module in the layers; ``cli`` stands for everything in it, ``cuda.image`` for that module alone."""
    name = module.removeprefix("trlaunch").removeprefix(".")
    while name:
        for i, names in enumerate(order):
            if name in names:
                return i
        name = name.rpartition(".")[0]
    raise AssertionError(f"docs/architecture.md names no layer for {module}")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_down_the_layers_of_the_architecture(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if module == "trlaunch" or path.read_text().count("\n") <= 1:
        return
    order = layers()
    own = layer_of(module, order)
    room = ".".join(module.split(".")[:2])
    for name in top_level_imports(path):
        if name == "trlaunch" or name == room or name.startswith(f"{room}."):
            continue  # the public names; the same folder
        assert layer_of(name, order) < own, f"{module} imports {name}, which is not below it"


def test_the_architecture_names_no_module_that_is_not_there():
    for names in layers():
        for name in names:
            assert module_path(f"trlaunch.{name}"), name


# --- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_says_what_it_is_and_what_it_exports(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    if len(tree.body) > 1:
        names = {t.id for node in tree.body for t in targets(node) if isinstance(t, ast.Name)}
        assert "__all__" in names, "no __all__"


def targets(node: ast.stmt) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_has_one_idea(path):
    assert len(path.read_text().splitlines()) <= 600


# --- the tree --------------------------------------------------------------------------------------------------------

# A path of somebody's machine: a home, a scratch folder, a drive. "me" stands for nobody.
MACHINE = re.compile(rb"(?<![\w.~-])/(?:home|root|Users|work|mnt|tmp/[a-z_]+)/(?!me\b)[\w.-]+|\b[A-Z]:\\\\?Users\\\\")


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    data = path.read_bytes()
    yield relative(path), data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield f"{relative(path)}:{name}", archive.read(name)


def test_no_tracked_file_holds_a_path_of_one_machine():
    found = [
        f"{name}: {match.group().decode(errors='replace')}"
        for path in tracked()
        for name, data in contents(path)
        if (match := MACHINE.search(data))
    ]
    assert found == []


def test_tracked_files_are_small():
    assert [relative(p) for p in tracked() if p.stat().st_size > 1 << 20] == []


def test_the_version_is_stated_once():
    assert 'version = { attr = "trlaunch._version.__version__" }' in (ROOT / "pyproject.toml").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.M)
    assert newest is not None
    assert newest[1] == trlaunch.__version__


# --- docs ------------------------------------------------------------------------------------------------------------


def test_the_api_reference_is_up_to_date():
    found = python("docs/generate_api.py", "--check")
    assert found.returncode == 0, found.stderr


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


PAGES = ["README.md", *(relative(p) for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "api.md")]
PYTHON_BLOCKS = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]
COMMANDS = [
    (page, line[2:], expected)
    for page in PAGES
    for block in blocks(page, "console")
    for line, expected in re.findall(r"^(\$ trlaunch .*?)(?:  # exit (\d))?$", block, re.M)
]


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """A folder with the demo's artifacts, where a reader would type the examples."""
    for file in (ROOT / "examples" / "artifacts" / "cuda80").iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("page,index", PYTHON_BLOCKS)
def test_the_python_of_the_docs_runs(page, index, artifacts):
    found = python("-c", blocks(page, "python")[index], cwd=artifacts)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("page,command,expected", COMMANDS)
def test_the_commands_of_the_docs_run(page, command, expected, artifacts):
    found = python("-m", *shlex.split(command), cwd=artifacts)
    assert found.returncode == int(expected or 0), found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_every_rule_of_the_check_and_every_error_is_explained():
    page = (ROOT / "docs" / "errors.md").read_text()
    rules = set(re.findall(r'Finding\(\s*"([\w-]+)"', (PACKAGE / "check.py").read_text()))
    assert rules == set(re.findall(r"^\| `([a-z][\w-]+)` \|", page, re.M))
    kinds = [name for name in trlaunch.errors.__all__ if isinstance(getattr(trlaunch.errors, name), type)]
    assert [name for name in kinds if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", [*PAGES, "docs/api.md", "CONTRIBUTING.md"])
def test_links_between_pages_lead_somewhere(page):
    path = ROOT / page
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.S)
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (path.parent / link).exists(), link
