from pathlib import Path

import pytest

from pathopatch.core.config import (
    Config,
    EvaluateConfig,
    GroupsConfig,
    PredictConfig,
    StudyConfig,
    TileConfig,
    TrainConfig,
    load_settings,
    load_study,
    parse,
    tables_of,
)
from pathopatch.core.errors import InputMissingError, InputUnsupportedError

SEEDS: list[tuple[type[Config], str]] = [
    (EvaluateConfig, "seed"),
    (GroupsConfig, "split_seed"),
    (TrainConfig, "seed"),
]


def study(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_in_a_study_are_relative_to_its_file(tmp_path: Path) -> None:
    loaded = load_study(study(tmp_path, 'manifest = "m.csv"\nwork = "../work"\n[tile]\npatch_px = 64\n'))
    assert loaded.manifest == tmp_path / "m.csv"
    assert loaded.work.resolve() == tmp_path.parent / "work"
    assert loaded.tile == TileConfig(patch_px=64)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('work = "w"\n', "give manifest, patches or features, one of them"),
        ('manifest = "m.csv"\npatches = "p.csv"\nwork = "w"\n', "give manifest, patches or features, one of them"),
        ('patches = "p"\nwork = "w"\n[tile]\npatch_px = 64\n', r"leave out \[tile\] patch_px"),
        ('patches = "p"\nwork = "w"\npredict_split = "test"\n', "leave out predict_split"),
        ('patches = "p"\nwork = "w"\n[tile]\nmpp = 0.5\n', r"leave out \[tile\] mpp .*\[ready\] mpp"),
    ],
)
def test_a_study_starts_from_slides_or_from_ready_patches(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputUnsupportedError, match=reason):
        load_study(study(tmp_path, text))
    loaded = load_study(study(tmp_path, 'patches = "p"\nwork = "w"\n'))
    assert (loaded.patches, loaded.predict_split) == (tmp_path / "p", "none")
    assert StudyConfig.model_validate_json(loaded.model_dump_json()) == loaded


def test_named_slides_of_a_study_forbid_deidentified_ones_in_its_folder(tmp_path: Path) -> None:
    text = 'manifest = "m.csv"\nwork = "w"\n{}[predict]\ndeidentify = true\n'
    with pytest.raises(InputUnsupportedError, match="predict into another folder"):
        load_study(study(tmp_path, text.format("")))
    assert load_study(study(tmp_path, text.format('predict_split = "none"\n'))).predict.deidentify


def test_every_unknown_or_wrong_key_is_listed(tmp_path: Path) -> None:
    path = study(tmp_path, 'manifest = "m"\nwork = "w"\ncolour = 1\n[tile]\npatch_px = 2\n[train]\nmethd = "erm"\n')
    with pytest.raises(InputUnsupportedError) as caught:
        load_study(path)
    for key in ("colour", "[tile] patch_px", "[train] methd"):
        assert key in str(caught.value)


def test_seeds_are_those_that_every_library_takes(tmp_path: Path) -> None:
    text = 'manifest = "m.csv"\nwork = "w"\nseeds = [{}]'
    load_study(study(tmp_path, text.format(2**31 - 1)))
    for seed in (-1, 2**31, 2**80):
        with pytest.raises(InputUnsupportedError, match="seed"):
            load_study(study(tmp_path, text.format(seed)))


def test_a_study_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="nowhere.toml"):
        load_study(tmp_path / "nowhere.toml")
    with pytest.raises(InputUnsupportedError, match="not a TOML file"):
        load_study(study(tmp_path, "manifest = "))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"stride_px": 300}, "must not exceed patch_px"),
        ({"mpp": 0.0}, "greater than or equal to 0.05"),
        ({"mpp": float("nan")}, "finite"),
        ({"tissue": {"method": "fixed"}}, "fixed_threshold goes with"),
        ({"intensity": {"low_percentile": 99, "high_percentile": 1}}, "must be below"),
    ],
)
def test_impossible_tilings_are_refused(raw: dict[str, object], reason: str) -> None:
    with pytest.raises(InputUnsupportedError, match=reason):
        parse(TileConfig, raw, place="test")


def test_equal_thresholds_and_unsorted_bins_are_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="differ from each other"):
        parse(GroupsConfig, {"thresholds": [0.5, 0.5]}, place="test")
    with pytest.raises(InputUnsupportedError, match="must rise"):
        parse(GroupsConfig, {"bins": [0.5, 0.3]}, place="test")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"mean": (123.7,), "std": (58.4,)}, r"values from 0 to 1\. If it is of 0 to 255: 123\.7 / 255 = 0\.485"),
        ({"mean": (0.5,), "std": (1e-30,)}, "std is 1e-30: .* is constant; use 1"),
        ({"batch_per_class": 10**9}, "less than or equal to 8192"),
    ],
)
def test_numbers_that_no_training_could_use_are_refused(raw: dict[str, object], reason: str) -> None:
    with pytest.raises(InputUnsupportedError, match=reason):
        parse(TrainConfig, raw, place="test")


@pytest.mark.parametrize("given", [False, 5, ["a"]])
def test_pretrained_of_another_kind_is_refused_in_plain_words(given: object) -> None:
    with pytest.raises(InputUnsupportedError) as caught:
        parse(TrainConfig, {"pretrained": given}, place="test")
    assert caught.value.message == (
        f"configuration refused: pretrained: Input should be 'none' or 'efficientnet-lite0' (got {given!r}); "
        f"pretrained: the path of a file is due (got {given!r})"
    )


@pytest.mark.parametrize(
    "text",
    [
        '[tile.tissue]\nwhen_unsure = "none"\n',
        'work = "w"\n[tile.tissue]\nwhen_unsure = "none"\n[predict]\nall_patches = true\n',
        'manifest = "m.csv"\nwork = "w"\n[tile.tissue]\nwhen_unsure = "none"\n',
    ],
)
def test_settings_need_no_manifest_and_may_stand_alone(tmp_path: Path, text: str) -> None:
    assert load_settings(study(tmp_path, text), reads=("tile",)).tile == parse(
        TileConfig, {"tissue": {"when_unsure": "none"}}, place="test"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[train]\nmethod = "erm"\n', r"none of the tables that this command reads: \[tile\] .*under \[tile\]"),
        ("", r"none of the tables"),
        ("[tile]\npatch = 4\n", r"\[tile\] patch: unknown key, did you mean patch_px\?"),
        ("[tissues]\npatch = 4\n", r"tissues: unknown key Remedy|tissues: unknown key \["),
        ("[tile.tissue]\nmetod = 'otsu'\n", r"\[tile.tissue\] metod: unknown key, did you mean method\?"),
        ("[Tile]\npatch_px = 64\n", r"Tile: unknown key, did you mean tile\?"),
        ('manifest = "m.csv"\n[tile]\npatch_px = 64\n', r"work: Field required"),  # a study is checked as one
    ],
)
def test_settings_that_the_command_does_not_read_or_know_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputUnsupportedError, match=reason):
        load_settings(study(tmp_path, text), reads=("tile",))


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ('manifest = "m"\n', "work: Field required", "add what is missing"),
        ('manifest = "m"\nwork = "w"\n[tile]\npatch = 4\n', "did you mean patch_px?", "correct or remove the keys"),
        (
            'manifest = "m"\nwork = "w"\n[train]\nmethod = "gern"\n',
            "did you mean gerne",
            "give values that are allowed",
        ),
    ],
)
def test_a_refused_configuration_says_what_to_do_about_each_mistake(
    tmp_path: Path, text: str, message: str, remedy: str
) -> None:
    with pytest.raises(InputUnsupportedError) as caught:
        load_study(study(tmp_path, text))
    assert message in caught.value.message
    assert "got {" not in caught.value.message
    assert caught.value.remedy == remedy


def test_how_the_work_is_shared_is_not_stored_with_a_study() -> None:
    stored = StudyConfig(manifest=Path("m.csv"), work=Path("w")).model_dump(mode="json")
    assert "batch" not in stored


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainConfig, {"steps": True}),
        (TrainConfig, {"steps": "100"}),
        (TrainConfig, {"learning_rate": False}),
        (TrainConfig, {"average_weights": 1}),
        (TrainConfig, {"average_weights": "yes"}),
        (GroupsConfig, {"thresholds": [True, 0.5]}),
        (TrainConfig, {"threads": 10**6}),
        (PredictConfig, {"threads": 10**6}),
        *((kind, {name: seed}) for kind, name in SEEDS for seed in (-1, 2**31, True, 2**80)),
    ],
)
def test_a_value_of_another_kind_or_beyond_all_sense_is_refused(kind: type[Config], values: dict[str, object]) -> None:
    with pytest.raises(InputUnsupportedError):
        parse(kind, values, place="test")


def test_every_seed_has_the_limits_of_a_seed() -> None:
    settings = {kind for table in tables_of(StudyConfig).values() for kind in (table, *tables_of(table).values())}
    seeds = {(kind, name) for kind in settings for name in kind.model_fields if name.endswith("seed")}
    assert seeds == set(SEEDS)
    assert all(getattr(parse(kind, {name: 2**31 - 1}, place="test"), name) == 2**31 - 1 for kind, name in SEEDS)
    assert parse(TrainConfig, {"augment": True, "steps": 5.0, "learning_rate": 1}, place="test").steps == 5
