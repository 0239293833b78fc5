"""No network: what each command asks for and writes, and an install from a wheelhouse where there is no route."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from program_commands import COMMANDS
from quick_demo import program

from pathopatch.demo import EXAMPLE_MANIFEST
from pathopatch.groups.decisions.decision import Decision
from pathopatch.review.decisions import DecisionLog

PROJECT = Path(__file__).parents[2]
AUDIT = PROJECT / "tests" / "helpers" / "audited"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "/")  # a path is that of a socket of this machine
TYPED = {
    "demo": "--jobs 1 -o made",
    "run": "study.toml --until tile",
    "doctor": "",
    "predict": "--example -o predicted --timeout 600",
    "info": "{example}/example_CARS.tif -o info.png --slide-mpp 0.5",
    "manifest": "{example} -o found.csv",
    "check": "{example}/manifest.csv",
    "tile": "{example}/manifest.csv -o tiled --timeout 600",
    "tissue": "tiled",
    "groups": "made --threshold 0.5 --force",
    "audit": "made",
    "audit-model": "made/runs/auto-t0.5-s0 made -o asked --per-slide 8",
    "train": "made --threshold 0.5 --method gerne --mask none --steps 2 --device cpu",
    "evaluate": "made --run gerne-t0.5-s0 --device cpu",
    "report": "made",
    "review": "predicted --port 0",
    "status": "predicted",
    "verify": "made/runs/auto-t0.5-s0/model",
    "export onnx": "made/runs/erm-t0.5-s0/model -o onnx",
    "export wsinfer": "rgb -o wsinfer",
    "export qupath": "predicted -o qupath",
    "export dicom": "predicted -o dicom",
    "export review": "predicted -o review.csv",
    "export regions": "predicted -o regions",
    "import model": "wsinfer --test wsinfer/patches.npz -o imported",
    "clean": "predicted --dry-run",
}
"""What is typed after each command, in this order, in one folder."""
FROZEN = {
    "train": "made --threshold 0.5 --device cpu",
    "predict": "{example}/manifest.csv --model made/runs/chosen-t0.5-s0/model -o frozen --device cpu",
}
"""What is typed then: a frozen network, whose weights come from a package."""
pytestmark = pytest.mark.timeout(1500)


def install_command() -> str:
    """Return the command of the documentation that installs from a wheelhouse, with ``pip`` as its program."""
    text = (PROJECT / "docs" / "how-to" / "offline.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^pathopatch-venv/bin/(pip install --no-index .*)", text, re.MULTILINE)
    return str(line)


def test_the_container_names_files_extras_and_a_program_that_exist() -> None:
    folder = PROJECT / "pipelines" / "deployment"
    recipe = (folder / "Containerfile").read_text(encoding="utf-8")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).*", recipe, re.MULTILINE)]
    assert [name for names in copied for name in names if not (PROJECT / name).exists()] == []
    assert {project["readme"], *project["license-files"]} <= {name for names in copied for name in names}
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)", recipe, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"]) - {"dev", "train"}
    (program,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]', recipe, re.MULTILINE)
    assert program in project["scripts"]
    assert "pipelines/deployment/container.sh" in (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert os.access(folder / "container.sh", os.X_OK)


@pytest.fixture
def unshare() -> str:
    """The program that runs another one without a network; where it is not allowed, the test is skipped."""
    policy = os.environ.get("PATHOPATCH_OFFLINE")
    if not policy:
        pytest.skip("takes minutes and gigabytes: set PATHOPATCH_OFFLINE=required, or wanted where it is possible")
    unshare_path = shutil.which("unshare")
    if (
        unshare_path is not None
        and subprocess.run([unshare_path, "--net", "true"], check=False, capture_output=True).returncode == 0
    ):
        return unshare_path
    assert policy != "required", "this machine gives out no network namespace"
    pytest.skip("this machine gives out no network namespace")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed in the end, for it holds gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_wheelhouse_without_torch_predicts_where_there_is_no_route(place: Path, unshare: str) -> None:
    folder = os.environ.get("PATHOPATCH_REAL_DATA")
    real_slide = next(Path(folder).rglob("CMU-1-Small-Region.svs")) if folder else None
    house, venv = place / "wheelhouse", place / "venv"
    subprocess.run(["make", "-n", "wheelhouse"], cwd=PROJECT, check=True, capture_output=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", house, ".[review]"],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    bare = {
        "PATH": f"{venv}/bin:/usr/bin:/bin",
        "HOME": str(place),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_COMPILE": "1",
    }

    def inside(words: str) -> str:
        command = [unshare, "--net", "sh", "-c", words]
        process = subprocess.run(command, cwd=place, env=bare, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    assert "default" not in inside("cat /proc/net/route")
    assert len(inside("cat /proc/net/route").splitlines()) <= 1  # the headings alone
    inside(install_command())
    packages = inside("pip list --format freeze").split()
    assert not [line for line in packages if line.split("==")[0] in ("torch", "timm", "optuna", "albumentations")]
    made.write_aperio(
        place / "a.svs",
        made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245)),
        levels=1,
    )
    write_model(place / "model")
    assert inside("pathopatch predict a.svs --model model -o out --device cpu").strip().endswith("slides: 1 done")
    assert (place / "out" / "heatmaps" / "a" / "overlay.png").is_file()
    if real_slide is not None:
        words = inside(f"pathopatch predict '{real_slide}' --model model -o real --device cpu")
        assert words.strip().endswith("slides: 1 done")
        assert (place / "real" / "heatmaps" / real_slide.stem / "overlay.png").is_file()
    assert "review" in inside("pathopatch --help")
    viewer = inside("python -c 'from pathopatch.review import viewer; print(viewer.is_installed())'")
    assert viewer.strip() == "True"


def refused(log: Path, *, allowed: tuple[Path, ...]) -> set[str]:
    """Return what was noted of a process and its children that is neither of this machine nor below the folders."""
    lines = {tuple(line.split("\t", 1)) for line in log.read_text(encoding="utf-8").splitlines()}
    ours = (*map(str, allowed), "/dev/null", "/dev/shm", "/proc/self", ":memory:")
    known = {"writes": ours, "asks": LOOPBACK, "starts": (sys.prefix, sys.base_prefix, "git", "fc-list", "uname")}
    return {f"{kind} {value}" for kind, value in lines if not value.startswith(known[kind])}


@pytest.mark.slow
def test_every_command_asks_no_server_and_writes_in_its_folders_only(tmp_path: Path) -> None:
    programs = [name for name, command in COMMANDS.items() if not hasattr(command, "commands")]
    assert sorted(TYPED) == sorted(name.removeprefix("pathopatch ") for name in programs)
    work, home, temporary = folders = [tmp_path / name for name in ("work", "home", "temporary")]
    for folder in folders:
        folder.mkdir()
    example = EXAMPLE_MANIFEST.parent
    (work / "study.toml").write_text(f'manifest = "{EXAMPLE_MANIFEST}"\nwork = "studied"\n', encoding="utf-8")
    write_model(work / "rgb")
    (work / "predicted").mkdir()
    with DecisionLog(work / "predicted" / "review.sqlite") as log:
        for revision, reviewer in enumerate(("Ada", "Bo")):
            log.record(Decision(slide_id="example", verdict="accept", reviewer=reviewer), revision=revision)
        square = "POLYGON ((40 20, 60 20, 60 40, 40 20))"
        log.record(Decision(slide_id="example", verdict="tumour", reviewer="Ada", region=square), revision=2)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "MPL", "HF_", "NO_ALB", "TORCH"))
    }
    path = os.pathsep.join([str(AUDIT), str(PROJECT)])
    own = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    found = {}
    for name, words in (*TYPED.items(), *FROZEN.items()):
        log = tmp_path / f"{len(found)}.log"
        with subprocess.Popen(
            [sys.executable, *program(name), *name.split(), *words.format(example=example).split()],
            cwd=work, env={**kept, **own, "AUDIT_LOG": str(log)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            if name == "review":
                assert process.stdout is not None
                assert process.stdout.readline().startswith("http://127.0.0.1:")
                process.terminate()
            printed = process.communicate()
        code = {"review": 143, "export dicom": 1}.get(name, 0)  # its slide is not DICOM
        assert process.returncode == code, (name, *printed)
        found[f"{name} {words}"] = refused(log, allowed=(work, temporary, home / ".cache", home / ".local"))
    assert {name: noted for name, noted in found.items() if noted} == {}
    # Files of native code, which the audit does not see.
    made_there = (path.relative_to(home) for depth in ("*", "*/*") for path in home.glob(depth))
    assert sorted(map(str, made_there)) == [".cache", ".cache/pathopatch", ".local", ".local/state"]


def test_onnxruntime_writes_no_id_of_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    kept = {
        name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    }
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", "import pathopatch, onnxruntime"], env=kept | own, check=True)
    assert list(tmp_path.iterdir()) == []


def asked_addresses(trace: str) -> set[str]:
    """Return the addresses that calls in the text of strace name."""
    return set(re.findall(r'inet_(?:addr\(|pton\(AF_INET6, )"(.*?)"', trace))


def test_addresses_of_both_protocols_are_read_from_a_trace() -> None:
    old = '{sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}'
    new = '{sa_family=AF_INET6, sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "2001:db8::1", &sin6_addr)}'
    assert asked_addresses(f"connect(3, {old}, 16) = 0\nconnect(3, {new}, 28) = 0") == {"192.0.2.1", "2001:db8::1"}


@pytest.mark.parametrize(
    ("platform", "folder"), [("linux", ".config/matplotlib"), ("darwin", ".matplotlib"), ("win32", ".matplotlib")]
)
def test_own_styles_of_matplotlib_are_kept_on_each_platform(platform: str, folder: str, tmp_path: Path) -> None:
    code = f"import os, sys; sys.platform = {platform!r}; import pathopatch; print(os.environ.get('MPLCONFIGDIR'))"
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CONFIG_HOME", "MPLCONFIGDIR")}
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}

    def chosen() -> str:
        return subprocess.check_output([sys.executable, "-c", code], env=kept | own, text=True).strip()

    assert chosen().endswith("matplotlib")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "matplotlibrc").touch()
    assert chosen() == "None"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("words", ["predict --example", "doctor"])
def test_native_code_asks_no_server_either(words: str, tmp_path: Path) -> None:
    command = ["strace", "-f", "-e", "trace=connect,sendto,sendmsg", "-o", tmp_path / "trace"]
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": "", "PYTHONPATH": str(PROJECT)}
    subprocess.run(
        [*command, sys.executable, "-m", "pathopatch", *words.split()],
        cwd=tmp_path, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert asked_addresses((tmp_path / "trace").read_text(encoding="utf-8")) <= {"127.0.0.1", "::1"}
    assert not (tmp_path / "intel").exists()
