"""Imports go down only: the picture of the rooms, as a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pyneurons"

# Two columns on one ground, joined at the top; a room imports what stands lower in its own column.
GROUND = {
    "errors": 0,
    "_env": 1,
    "_foreign": 1,
    "_memory": 0,
    "_progress": 1,
    "conservation": 1,
    "covering": 1,
    "failpoints": 1.1,
    "durable": 1.2,
    "ledger": 1.3,
    "result": 1.4,
    "run_writer": 1.5,
}
LEFT = {
    "panels": 1,
    "shadows": 1,
    "reference": 2,
    "_core": 2,
    "_cuda": 2,
    "kernels": 2,
    "backends": 3,
    "ops": 4,
    "torch_ops": 5,
    "model": 5,
    "corpus": 5,
    "demo": 5,
    "observers": 6,
    "engine": 7,
    "merging": 7.5,
}
RIGHT = {"analysis": 2, "report": 3, "_scanned": 4, "_verify": 5}
TOP = {"_scan": 8, "_merge": 8.5, "__init__": 9, "_stopping": 9, "cli": 10, "__main__": 11}
RANKS = GROUND | LEFT | RIGHT | TOP

ONLY_IN = {
    "transformers": {"model/checkpoint.py", "model/config.py", "demo/train.py"},
    "accelerate": {"model/loaded.py", "model/device_memory.py"},
    "huggingface_hub": {"model/checkpoint.py"},
    "safetensors": {"result.py", "model/", "demo/"},
    "pyarrow": {"result.py", "corpus/"},
    "triton": {"backends/"},
    "torch": {
        "panels.py",
        "shadows.py",
        "torch_ops.py",
        "reference.py",
        "ops.py",
        "backends/",
        "model/",
        "observers/",
        "engine/",
        "demo/train.py",
        "_scan.py",
    },
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "kernels" not in path.parts)


def room(relative: str) -> str:
    return relative.split("/", maxsplit=1)[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports, with its line; `from a import b` gives both a and a.b."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def climbs(importer: str, target: str) -> str | None:
    """Return what is wrong with an import between two rooms, or None."""
    if importer == target:
        return None
    if RANKS[target] >= RANKS[importer]:
        return "climbs"
    for one, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        if importer in one and target in other:
            return "crosses"
    return None


def own_room(name: str) -> str | None:
    """Return the room that an imported name belongs to, or None for other packages."""
    parts = name.split(".")
    if parts[0] != "pyneurons":
        return None
    if len(parts) > 1 and parts[1] in RANKS:
        return parts[1]
    return "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    wrong = []
    for line, name in imported(path):
        target = own_room(name)
        if target is not None and (what := climbs(room(relative), target)):
            wrong.append(f"{relative}:{line} imports {name}: {what}")
        package = name.split(".")[0]
        allowed = ONLY_IN.get(package)
        if allowed is not None and not any(
            relative == place or (place.endswith("/") and relative.startswith(place))
            for place in allowed
        ):
            wrong.append(f"{relative}:{line} imports {package}, which belongs in {sorted(allowed)}")
    assert not wrong, "\n".join(wrong)


def test_a_planted_violation_is_found() -> None:
    assert climbs("ops", "engine") == "climbs"
    assert climbs("corpus", "model") == "climbs"
    assert climbs("engine", "analysis") == "crosses"
    assert climbs("report", "corpus") == "climbs"
    assert climbs("engine", "ops") is None
    assert climbs("report", "analysis") is None
    assert own_room("pyneurons.engine.plan.make_plan") == "engine"
    assert own_room("pyneurons.scan") == "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_environment_and_output_have_one_place(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    source = path.read_text(encoding="utf-8")
    if relative not in {"_env.py", "demo/train.py"}:
        assert "os.environ" not in source
        assert "getenv" not in source
    if relative not in {"cli.py", "demo/train.py"}:
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        assert not calls, f"{relative}: print() on lines {calls}"


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, pyneurons; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


BLOCKED = (
    "accelerate, huggingface_hub, matplotlib, pandas, rich, tokenizers, transformers, triton, typer, "
    "zstandard"
)
SCAN_OF_IDS = """
import shutil, sys
from pathlib import Path
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(", "):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
import pyneurons
from pyneurons import demo
for file in ("config.json", "model.safetensors"):
    shutil.copy(demo.model_directory() / file, sys.argv[2])
ids = [list(range(4, 200)), list(range(9, 70))]
scan = pyneurons.scan(sys.argv[2], ids, layers=[0], context=64, dtype="float32", progress=False)
print(scan.tokens)
"""


def test_a_scan_of_token_ids_needs_none_of_these(tmp_path: Path) -> None:
    """So that it runs where PyTorch is all that is installed, beside NumPy, safetensors, pyarrow."""
    done = subprocess.run(
        [sys.executable, "-c", SCAN_OF_IDS, BLOCKED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_kernels_is_no_package() -> None:
    """A regular package here would be imported in place of Hugging Face's `kernels`."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_cpp_layers() -> None:
    """csrc/core knows no Python, and a file compiled for one instruction set no STL.

    Inline functions of the STL would be shared by the linker with files compiled for other
    processors: an illegal instruction on the older ones.
    """
    isa_file = re.compile(r"_(scalar|avx2|avx512)\.(cpp|hpp)$|\.inl$")
    plain = {"cstddef", "cstdint", "immintrin.h", "cstring", "climits", "limits"}
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in {".cpp", ".hpp", ".inl"}:
            continue
        includes = re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"))
        if "bindings" not in path.parts:
            assert not [i for i in includes if "pybind11" in i or "Python" in i], path
        if isa_file.search(path.name):
            system = [i for i in includes if not i.endswith((".hpp", ".inl"))]
            assert set(system) <= plain, f"{path}: {system}"
