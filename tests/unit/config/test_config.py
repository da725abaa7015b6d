"""Presets say what SEIZE released; wrong settings are named."""

from pathlib import Path

import pytest
import yaml

from pipeline import config
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.retrieval import methods


def increment(settings: Config, dataset: str) -> dict[str, float]:
    (found,) = methods.settings(settings, "seize", dataset)
    return found.model_dump()


@pytest.mark.parametrize("name", config.presets())
def test_every_preset_loads_and_says_what_it_needs(name: str) -> None:
    preset = config.load(name)
    assert preset.description
    assert preset.needs
    methods.check(preset, ("circo", "cirr", "fashioniq"))


def test_paper_presets_are_as_released() -> None:
    models = {name: config.load(name).clip for name in config.presets() if "paper" in name}
    assert {name: (clip.model, clip.pretrained) for name, clip in models.items()} == {
        "paper-b32": ("ViT-B-32", "openai"),
        "paper-l14": ("ViT-L-14", "openai"),
        "paper-bigg": ("ViT-bigG-14", "laion2b_s39b_b160k"),
    }
    for name in models:
        preset = config.load(name)
        assert preset.clip.target_pad == 1.25
        assert preset.captioner.model == "Salesforce/blip2-opt-6.7b-coco"
        assert preset.captioner.samples == 15
        assert preset.llm.prompt == "seize"
        assert increment(preset, "circo") == {"positive": 0.13, "negative": 2.1}
        assert increment(preset, "cirr") == {"positive": 0.22, "negative": 1.0}


def test_a_misspelt_preset_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'paper-l14'"):
        config.load("paper-l-14")


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: paper-b32\ncaptioner: {samples: 3}\n")
    mine = config.load(str(file), {"search.increment.circo.positive": 0.5})
    assert mine.captioner.samples == 3
    assert mine.clip.model == "ViT-B-32"
    assert increment(mine, "circo") == {"positive": 0.5, "negative": 2.1}
    assert increment(mine, "cirr") == {"positive": 0.22, "negative": 1.0}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("preset: demo\ncaptioner: {sample: 3}", "captioner.sample"),
        ("preset: demo\ncaptioner: {samples: many}", "captioner.samples"),
        ("preset: demo\ncaptioner: [1]", "captioner"),
        ("preset: nope", "There is no preset 'nope'"),
        ("a: [", "cannot be read"),
        ("just text", "key: value"),
    ],
)
def test_bad_files_name_the_file_or_field(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        config.load(str(file))


def test_a_wrong_option_is_not_blamed_on_the_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^An option .*: verifier\.weight: ") as caught:
        config.load("demo", {"verifier.weight": 2})
    assert "demo.yaml" not in str(caught.value)
    file = tmp_path / "own.yaml"
    file.write_text("preset: demo\nverifier: {weight: 2}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.yaml: verifier\.weight: "):
        config.load(str(file), {"verifier.accept": 0.9})


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("api_key_variable: AWS_SECRET_ACCESS_KEY", "--set runtime.api_key_variable=NAME"),
        ("milvus_token_variable: HF_TOKEN", "--set runtime.milvus_token_variable=NAME"),
        ("allow_pickle: true", "--allow-pickle"),
        ("follow_links: true", "--follow-links"),
    ],
)
def test_a_file_may_not_read_the_environment_nor_open_what_can_do_harm(
    tmp_path: Path, line: str, option: str
) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(f"preset: demo\nruntime: {{{line}}}\n")
    field, _, value = line.partition(": ")
    with pytest.raises(ConfigError, match=f"theirs.yaml: runtime.{field} .* give {option}"):
        config.load(str(file))
    with pytest.raises(ConfigError, match=f"theirs.yaml: runtime.{field}"):
        config.load(str(file), {"llm.temperature": 0.5})
    wanted = {"true": True}.get(value, value)
    own = config.load(str(file), {f"runtime.{field}": wanted})
    assert getattr(own.runtime, field) == wanted
    assert getattr(config.load("demo", {f"runtime.{field}": wanted}).runtime, field) == wanted


@pytest.mark.parametrize("field", ["llm.url", "captioner.url", "verifier.url"])
@pytest.mark.parametrize(
    "url",
    [
        *("http://evil.example/v1", "http://localhost@evil.example/v1", "http://[::2]:8000/v1"),
        *("http://localhost.evil.example/v1", "//evil.example", "evil.example:80", "http://[/v1"),
        *("http://127.0.0.1.evil.example", "[http://localhost:8000/v1, http://evil.example/v1]"),
    ],
)
def test_a_file_may_not_send_the_key_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, url: str
) -> None:
    section, _, name = field.partition(".")
    file = tmp_path / "theirs.yaml"
    quoted = url if url.startswith("[") and "," in url else f"'{url}'"
    file.write_text(f"preset: laptop\n{section}: {{{name}: {quoted}}}\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config.load(str(file))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(ConfigError, match=f"{field} is not on this machine") as caught:
        config.load(str(file))
    assert "sk-secret" not in str(caught.value)
    config.load(str(file), {"runtime.api_key_variable": "OPENAI_API_KEY"})
    config.load(str(file), {field: "http://mine.example/v1"})


def test_a_file_may_not_send_the_token_of_milvus_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text("preset: demo\nruntime: {milvus_url: 'http://evil.example:19530'}\n")
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    with pytest.raises(ConfigError, match=r"runtime\.milvus_url is not on this machine"):
        config.load(str(file))
    config.load(str(file), {"runtime.milvus_token_variable": "MILVUS_TOKEN"})


def test_servers_of_this_machine_and_what_config_show_prints_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    file = tmp_path / "mine.yaml"
    for name in config.presets():
        shown = config.load(name)
        file.write_text(yaml.safe_dump(shown.model_dump()))
        assert config.load(str(file)) == shown
    for url in ("http://localhost:8000/v1", "http://127.0.0.2/v1", "http://[::1]:80/v1"):
        file.write_text(f"preset: laptop\nllm: {{url: '{url}'}}\n")
        assert config.load(str(file)).llm.url == url


@pytest.mark.parametrize("section", ["captioner", "llm", "clip", "verifier", "runtime"])
def test_every_number_of_a_configuration_has_a_range(section: str) -> None:
    content = config.load("demo").model_dump()
    numbers = {
        name: value
        for name, value in content[section].items()
        if (isinstance(value, int | float) and not isinstance(value, bool))
        or name in ("workers", "concurrency")
    }
    assert numbers
    for name in numbers:
        for wrong in (-1, float("nan"), float("inf"), 10**30, 1e300):
            with pytest.raises(ConfigError, match=f"{section}.{name}: "):
                config.load("demo", {f"{section}.{name}": wrong})
