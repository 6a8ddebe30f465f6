"""Test a run: reconstruct in another process, judge, continue, and choose package and sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.errors import refused

from scripts.reliability.results import append_row, read_rows
from scripts.reliability.run import Settings, main, select_jobs


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a finished run of one small set."""
    settings = Settings(tmp_path_factory.mktemp("reliability"), sets=("size_96",))
    main(settings)
    return settings


def test_a_set_is_reconstructed_and_judged(settings: Settings) -> None:
    (row,) = read_rows(settings.results_path)
    assert (row["name"], row["family"], row["honest"], row["judged"]) == ("size_96", "numerics", False, True)
    assert row["verdict"] in ("right", "warned", "refused", "wrong silently")
    assert row["seconds"] > 0
    assert row["refused"] or (row["images"] == 8 and row["accuracy"]["auc_5"] > 0)


def test_finished_sets_are_skipped_and_can_be_judged_again(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    main(settings)
    assert capsys.readouterr().out == ""
    append_row(settings.results_path, {**read_rows(settings.results_path)[0], "verdict": "lost"})
    main(replace(settings, rejudge=True))
    (row,) = read_rows(settings.results_path)
    assert row["verdict"] != "lost"


def test_errors_of_the_package_and_crashes_are_results(settings: Settings, tmp_path: Path) -> None:
    package = tmp_path / "checkout"
    (package / "nope_splat").mkdir(parents=True)
    (package / "nope_splat" / "__init__.py").write_text("raise RuntimeError('of that package')")
    main(replace(settings, package=package, results=settings.output_dir / "other.jsonl"))
    (row,) = read_rows(settings.output_dir / "other.jsonl")
    assert row["verdict"] == "crashed"
    assert "of that package" in row["crashed"]
    with refused("invalid-option", tmp_path):
        main(replace(settings, package=tmp_path, results=settings.output_dir / "none.jsonl"))


def test_photos_without_truth_are_honest(tmp_path: Path, settings: Settings) -> None:
    photos = settings.output_dir / "sets" / "size_96"
    chosen = replace(settings, photos=(f"mine={photos}",), sets=("mine",))
    (job,) = select_jobs(chosen)
    job.make()
    assert job.image_set.honest
    assert job.truth() == {}
    assert len(list((job.folder / "images").iterdir())) == 8
    with refused("missing-file", "nothing"):
        select_jobs(replace(settings, photos=("mine=nothing",)))


def test_sets_are_chosen_by_name_family_and_variation(settings: Settings) -> None:
    names = {job.name for job in select_jobs(replace(settings, sets=("logo",), variations=(0, 2)))}
    assert names == {f"valley_logo_{size}pct{end}" for size in (5, 12) for end in ("", "~2")}
    with_data = {job.name for job in select_jobs(replace(settings, sets=("logo",), data=Path("data")))}
    assert "fountain_logo_12pct" in with_data
    assert {job.image_set.family for job in select_jobs(replace(settings, sets=(), family=("moving",)))} == {
        "moving"
    }
    with refused("invalid-option", "nowhere"):
        select_jobs(replace(settings, sets=("nowhere",)))
