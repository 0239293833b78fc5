"""The cost of `import pathopatch.debias`."""

import json
import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter holds after a statement; None is a module kept out."""
    held = "{name.split('.')[0] for name, module in sys.modules.items() if module is not None}"
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({held})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "libraries"),
    [("import pathopatch.debias", "numpy"), ("import pathopatch.debias.objectives", "numpy, torch")],
)
def test_debias_loads_numpy_and_its_objectives_torch_and_no_more(statement: str, libraries: str) -> None:
    ours = modules_after(statement)
    added = ours - modules_after(f"import {libraries}") - set(sys.stdlib_module_names)
    assert added == {"pathopatch"}
    heavy = {"pandas", "timm", "zarr", "cv2", "sklearn", "matplotlib", "pyarrow", "skimage", "tifffile", "openslide"}
    heavy |= {
        "tensorstore",
        "pydantic",
        "albumentations",
        "optuna",
        "scipy",
        "torchvision",
        "safetensors",
        "imagecodecs",
    }
    assert not ours & heavy


def test_debias_imports_only_errors_and_names_of_methods_from_the_package() -> None:
    code = "import pathopatch.debias, sys\nprint(*(name for name in sys.modules if name.startswith('pathopatch.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {name for name in done.stdout.split() if not name.startswith("pathopatch.debias")}
    assert others == {f"pathopatch.core{part}" for part in ("", ".errors", ".method_names", ".user_cache", ".version")}


def test_the_arithmetic_needs_no_torch() -> None:
    assert "torch" not in modules_after("import pathopatch.metrics.accuracy")
