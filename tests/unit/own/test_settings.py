"""Where the settings of one's own folder come from, and what a found file may not do."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.own import settings

PRESET = "preset: demo\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images to be, in a home without settings."""
    monkeypatch.delenv(settings.CONFIG_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "shelf" / "photos"
    made.mkdir(parents=True)
    return made


def found(folder: Path, given: str | None = None) -> str:
    return settings.find(folder, given, folder.parent.parent / "cache").name


def test_each_place_counts_before_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(folder) == "laptop"
    own = settings.user_file()
    own.parent.mkdir(parents=True)
    own.write_text(PRESET)
    assert found(folder) == str(own)
    settings.remember(folder, "demo", folder.parent.parent / "cache", {})
    assert found(folder) == "demo"
    beside = folder.parent / settings.FILE
    beside.write_text(PRESET)
    assert found(folder) == str(beside)
    inside = folder / settings.FILE
    inside.write_text(PRESET)
    assert found(folder) == str(inside)
    monkeypatch.setenv(settings.CONFIG_VARIABLE, "paper-b32")
    assert found(folder) == "paper-b32"
    assert found(folder, "paper-l14") == "paper-l14"


def test_what_a_folder_was_indexed_with_is_found_from_any_other_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "mine.yaml").write_text("preset: demo\nsearch: {method: sum}\n")
    (tmp_path / "weights").mkdir()
    overrides = {"clip.model": "local-dir:weights", "runtime.workers": 0}
    settings.remember(folder, "mine.yaml", cache, overrides)
    monkeypatch.chdir(folder)
    config = settings.load(folder, None, cache, {})
    assert config.search.method == "sum"
    assert config.clip.model == f"local-dir:{tmp_path / 'weights'}"
    assert config.runtime.workers != 0, "only what the index depends on is kept"
    assert settings.load(folder, "demo", cache, {}).search.method == "seize"


def test_a_command_that_names_nothing_forgets_nothing(folder: Path, tmp_path: Path) -> None:
    settings.remember(folder, "demo", tmp_path / "cache", {})
    settings.remember(folder, None, tmp_path / "cache", {"search.top_k": 3})
    assert found(folder) == "demo"


def test_a_file_with_the_pictures_may_not_send_them_away(folder: Path, tmp_path: Path) -> None:
    inside = folder / settings.FILE
    inside.write_text("preset: demo\ncaptioner: {url: 'http://example.org/v1'}\n")
    with pytest.raises(ConfigError, match=r"captioner\.url.*--config"):
        settings.load(folder, None, tmp_path, {})
    inside.write_text("preset: demo\nruntime: {milvus_url: 'http://example.org:19530'}\n")
    with pytest.raises(ConfigError, match=r"runtime\.milvus_url"):
        settings.load(folder, None, tmp_path, {})
    asked = {"runtime.milvus_url": "http://example.org:19530"}
    assert settings.load(folder, None, tmp_path, asked).runtime.milvus_url == asked.popitem()[1]
    assert settings.load(folder, str(inside), tmp_path, {}).runtime.milvus_url is not None


def test_a_remembered_file_that_is_gone_says_where_it_was_named(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(PRESET)
    settings.remember(folder, str(file), tmp_path / "cache", {})
    file.unlink()
    with pytest.raises(Exception, match="what the folder was indexed with"):
        settings.load(folder, None, tmp_path / "cache", {})
    damaged = tmp_path / "cache" / settings.cache_name(folder.resolve()) / settings.REMEMBERED
    damaged.write_text(json.dumps(["no settings"]))
    with pytest.raises(InputError, match=r"settings\.json: it is damaged.*--config"):
        found(folder)


def test_remembered_settings_that_were_changed_are_refused_until_they_are_named_again(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    settings.remember(folder, "demo", cache, {})
    kept = cache / settings.cache_name(folder.resolve()) / settings.REMEMBERED
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps(content | {"set": {"clip.pretrained": "openai"}}))
    with pytest.raises(InputError, match="--config"):
        settings.load(folder, None, cache, {})
    settings.remember(folder, "demo", cache, {})
    assert found(folder) == "demo"
    del content["checksum"]
    kept.write_text(json.dumps(content))
    assert found(folder) == "demo", "earlier versions kept no checksum"


def test_the_cache_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.setenv(settings.CACHE_VARIABLE, str(tmp_path / "named"))
    assert settings.cache_folder(None) == tmp_path / "named"
    monkeypatch.delenv(settings.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert settings.cache_folder(None) == tmp_path / "home" / "seize"
