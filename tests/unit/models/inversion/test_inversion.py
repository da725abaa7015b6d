"""Textual inversion: networks, released layouts of weights, and pseudo-words inside prompts."""

import hashlib
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.inversion import checkpoints, prompts
from pipeline.models.inversion.networks import FineGrained, Phi, Pic2Word
from tests.conftest import PROJECT
from tests.integration.test_cli import seize

D, T, V = 12, 10, 14
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def clip() -> Any:
    """The demo's CLIP, whose text tower is the model's own."""
    name = f"local-dir:{PROJECT / 'data' / 'models' / 'clip'}"
    return open_clip.create_model(name, require_pretrained=True).eval().float()


@pytest.fixture(scope="module")
def custom() -> Any:
    """A tiny CustomTextCLIP, whose text tower is a module of its own."""
    torch.manual_seed(0)
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    return open_clip.CustomTextCLIP(24, vision, text).eval()  # type: ignore[no-untyped-call]


def gelu(x: Array) -> Array:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def by_hand(x: Array, weights: dict[str, Array], prefix: str = "layers.") -> Array:
    """φ in float64 NumPy, from weights by name."""
    for i, last in ((0, False), (3, False), (6, True)):
        x = x @ weights[f"{prefix}{i}.weight"].T + weights[f"{prefix}{i}.bias"]
        x = x if last else gelu(x)
    return x


def doubles(network: nn.Module) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in network.state_dict().items()}


def test_lincir_and_searle_files_load_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(1)
    phi, x = Phi(D, T).eval(), torch.randn(5, D)
    expected = by_hand(x.double().numpy(), doubles(phi))
    lincir, searle = tmp_path / "phi_best.pt", tmp_path / "SEARLE.pt"
    torch.save({"epoch": 3, "Phi": phi.state_dict()}, lincir)
    torch.save({"Phi": {f"module.{n}": v for n, v in phi.state_dict().items()}}, searle)
    own = tmp_path / "phi.safetensors"
    save_file(phi.state_dict(), own)
    for file in (lincir, searle, own):
        network = checkpoints.load(file, D, T)
        assert isinstance(network, Phi)
        np.testing.assert_allclose(network(x).numpy(), expected, atol=1e-5)


def test_pic2word_files_load_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network, x = Pic2Word(D, T, hidden=20).eval(), torch.randn(4, D)
    file = tmp_path / "epoch_30.pt"
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 30, "name": "x", "state_dict_img2text": state}, file)
    weights, expected = doubles(network), x.double().numpy()
    for i in (0, 1):
        name = f"layers.{i}.0"
        expected = np.maximum(expected @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], 0)
    expected = expected @ weights["fc_out.weight"].T + weights["fc_out.bias"]
    loaded = checkpoints.load(file, D, T)
    assert isinstance(loaded, Pic2Word)
    np.testing.assert_allclose(loaded(x).numpy(), expected, atol=1e-5)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def fti4cir_by_hand(feature: Array, tokens: Array, w: dict[str, Array]) -> tuple[Array, Array, int]:
    """One image through FTI4CIR in float64 NumPy, image by image."""
    templates = w["templates"][0]
    x = np.concatenate([templates, tokens])
    for i in range(3):
        at = f"transformer.layers.{i}"
        normed = layer_norm(x, w, f"{at}.norm1")
        query = normed @ w[f"{at}.attn.to_queries.weight"].T
        keys, values = np.split(normed @ w[f"{at}.attn.to_keys_values.weight"].T, 2, axis=-1)
        mixed = softmax(query @ keys.T / np.sqrt(query.shape[-1])) @ values
        x = x + mixed @ w[f"{at}.attn.project.weight"].T + w[f"{at}.attn.project.bias"]
        normed = layer_norm(x, w, f"{at}.norm2")
        inner = np.maximum(normed @ w[f"{at}.mlp.fc1.weight"].T + w[f"{at}.mlp.fc1.bias"], 0)
        x = x + inner @ w[f"{at}.mlp.fc2.weight"].T + w[f"{at}.mlp.fc2.bias"]
    local = x[: len(templates)] @ w["local_atte_fc.0.weight"].T + w["local_atte_fc.0.bias"]
    local = 1 / (1 + np.exp(-local))
    share = softmax(local @ feature)
    count = int(np.clip((share > 0.05).sum(), 1, 12))
    order = np.argsort(-share, kind="stable")[:12]
    order = np.concatenate([np.sort(order[:count]), order[count:]])
    picked = local[order] / np.linalg.norm(local[order], axis=-1, keepdims=True)
    subject = by_hand(feature, w, "phi_s.layers.")
    return subject, by_hand(picked, w, "phi_a.layers."), count


RELEASED = """
import torch
from torch import nn
from torch.nn import functional as nnf

class Phi(nn.Module):
    def __init__(self, d, h, t):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Dropout(0.5), nn.Linear(h, h),
                                    nn.GELU(), nn.Dropout(0.5), nn.Linear(h, t))

class Attention(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.num_heads, self.scale = 1, v ** -0.5
        self.to_queries = nn.Linear(v, v, bias=False)
        self.to_keys_values = nn.Linear(v, 2 * v, bias=False)
        self.project = nn.Linear(v, v)
        self.dropout = nn.Dropout(0.0)

class Mlp(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(v, 2 * v), nnf.relu, nn.Linear(2 * v, v)

class Layer(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(v), Attention(v)
        self.norm2, self.mlp = nn.LayerNorm(v), Mlp(v)

class Transformer(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.enc_dec = False
        self.layers = nn.ModuleList([Layer(v) for _ in range(3)])

class IMG2TEXT(nn.Module):
    def __init__(self, v, d, t):
        super().__init__()
        self.num_k, self.topk, self.epsilon, self.temperature = 24, 12, 0.05, 0.2
        self.phi_s, self.phi_a = Phi(d, 4 * d, t), Phi(d, 4 * d, t)
        self.local_atte_fc = nn.Sequential(nn.Linear(v, d), nn.Sigmoid())
        self.cosine_criterion = nn.CosineEmbeddingLoss()
        self.criterion_target = torch.as_tensor([1])
        self.ortho_loss = nn.MSELoss()
        self.transformer = Transformer(v)
        self.templates = nn.Parameter(torch.randn(1, 24, v))
"""


def released_module(file: Path, v: int, d: int, t: int) -> dict[str, Array]:
    """Save a module whole, with the names, classes and attributes of FTI4CIR's release, of random
    weights; its classes are nowhere to be found later. Returns its parameters."""
    foreign = types.ModuleType("i2t_model")
    sys.modules["i2t_model"] = foreign
    try:
        exec(RELEASED, foreign.__dict__)
        module = foreign.IMG2TEXT(v, d, t)
        torch.save(module, file)
    finally:
        del sys.modules["i2t_model"]
    return doubles(module)


def check_fti4cir(network: Any, weights: dict[str, Array], d: int, v: int) -> None:
    """Hold a network against float64, image by image."""
    features, tokens = 3 * torch.randn(6, d), torch.randn(6, 5, v)
    subjects, attributes, counts = network(features, tokens)
    assert len(set(counts.tolist())) > 1, "the number of attributes differs by image"
    for i in range(6):
        row = features[i].double().numpy(), tokens[i].double().numpy()
        subject, attribute, count = fti4cir_by_hand(*row, weights)
        assert counts[i] == count
        np.testing.assert_allclose(subjects[i].numpy(), subject, atol=1e-4)
        np.testing.assert_allclose(attributes[i].numpy(), attribute, atol=1e-4)


@pytest.mark.parametrize("t", [D, T], ids=["t = d, as released", "t of another width"])
def test_fti4cir_is_read_without_unpickling_its_module(t: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    file = tmp_path / "model_60.pth"
    weights = released_module(file, V, D, t)
    with pytest.raises((ModuleNotFoundError, AttributeError, pickle.UnpicklingError)):
        torch.load(file, weights_only=False)
    loaded = checkpoints.load(file, D, t, V)
    assert isinstance(loaded, FineGrained)
    check_fti4cir(loaded, weights, D, V)


def test_the_released_fti4cir_of_vit_l_14_has_these_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = FineGrained(768, 1024)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    layer = "transformer.layers.2"
    assert shapes["templates"] == (1, 24, 1024)
    assert shapes[f"{layer}.attn.to_queries.weight"] == (1024, 1024)
    assert shapes[f"{layer}.attn.to_keys_values.weight"] == (2048, 1024)
    assert f"{layer}.attn.to_queries.bias" not in shapes
    assert shapes[f"{layer}.mlp.fc1.weight"] == (2048, 1024)
    assert shapes[f"{layer}.mlp.fc2.weight"] == (1024, 2048)
    assert shapes["local_atte_fc.0.weight"] == (768, 1024)
    assert shapes["phi_a.layers.0.weight"] == (3072, 768)
    file = tmp_path / "model.pth"
    assert released_module(file, V, D, D).keys() == shapes.keys()


def test_convert_writes_what_was_read_and_runs_no_code(tmp_path: Path) -> None:
    torch.manual_seed(4)
    file, out = tmp_path / "model_60.pth", tmp_path / "fti4cir.safetensors"
    weights = released_module(file, V, D, T)
    result = seize("convert", str(file), "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["method"], told["d"], told["t"]) == ("fti4cir", D, T)
    assert told["source"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    check_fti4cir(checkpoints.load(out, D, T, V), weights, D, V)
    with safe_open(out, "pt") as stored:
        assert json.loads(stored.metadata()["configuration"])["source"] == told["source"]
    refused = seize("convert", str(file), "--out", str(tmp_path / "x.pt"))
    assert refused.exit_code == 2
    assert "safetensors" in refused.stderr
    proof, evil = tmp_path / "proof", tmp_path / "evil.pth"
    torch.save(Evil(proof), evil)
    refused = seize("convert", str(evil), "--out", str(tmp_path / "y.safetensors"))
    assert refused.exit_code == 5
    assert "evil.pth" in refused.stderr
    assert not proof.exists()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_file_runs_no_code(tmp_path: Path) -> None:
    proof, file = tmp_path / "proof", tmp_path / "evil.pt"
    torch.save({"Phi": {"layers.0.weight": torch.zeros(2, 2)}, "x": Evil(proof)}, file)
    with pytest.raises(ModelError):
        checkpoints.load(file, 2, 2)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 cut", b"\x80\x04.", b"not a pickle", b"hello"],
    ids=["empty", "cut zip", "cut pickle", "text", "word"],
)
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    for name in ("phi.pt", "phi.safetensors"):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name} cannot be read .*: \w+ \w+") as error:
            checkpoints.load(file, D, T)  # and says in words what is wrong
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no file"):
        checkpoints.load(tmp_path / "nowhere.pt", D, T)


def test_another_backbone_is_refused_with_both_shapes(tmp_path: Path) -> None:
    file = tmp_path / "phi.pt"
    torch.save({"Phi": Phi(D, T).state_dict()}, file)
    with pytest.raises(ModelError, match=r"\(image feature, text token\) are 12 x 10, .* 16 x 10"):
        checkpoints.load(file, 16, T)
    fine = tmp_path / "fine.safetensors"
    save_file(FineGrained(D, V).state_dict(), fine)
    with pytest.raises(
        ModelError, match=r"image token.* 12 x 12 x 14, this encoder's 12 x 12 x 20"
    ):
        checkpoints.load(fine, D, D, 20)


def names(model: Any, tokenizer: prompts.Tokenizer, text: str) -> Tensor:
    """The token embeddings of a text."""
    ids = torch.tensor(tokenizer.pieces(text))
    found: Tensor = prompts.token_embedding(model)(ids)
    return found.detach()


@pytest.mark.parametrize("which", ["clip", "custom"])
def test_a_word_in_its_own_place_changes_nothing(
    which: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    raw = open_clip.SimpleTokenizer(context_length=32)  # type: ignore[no-untyped-call]
    tokenizer = prompts.Tokenizer(raw)
    prompt = prompts.assemble(tokenizer, "a photo of {words} that {text}", "has red stars", 1)
    with torch.no_grad():
        plain = model.encode_text(raw(["a photo of circle that has red stars"]))
        word = names(model, tokenizer, "circle")
        made = prompts.encode(model, tokenizer, [prompt], [word])
        other = prompts.encode(model, tokenizer, [prompt], [names(model, tokenizer, "square")])
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-5)
    assert (other - plain).abs().max() > 1e-3


def test_rows_of_different_numbers_of_words_share_a_batch(clip: Any) -> None:
    tokenizer = prompts.Tokenizer(open_clip.SimpleTokenizer(context_length=32))  # type: ignore[no-untyped-call]
    template = "a photo of {words} with {words} but {text}"
    made = [prompts.assemble(tokenizer, template, "is blue", [1, n]) for n in (1, 3)]
    words = [torch.randn(len(prompt.places), 96) for prompt in made]
    with torch.no_grad():
        together = prompts.encode(clip, tokenizer, made, words)
        alone = [
            prompts.encode(clip, tokenizer, [p], [w]) for p, w in zip(made, words, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@given(text=st.text(alphabet="$* abc,.()5", max_size=60), count=st.integers(1, 3))
@settings(max_examples=60)
def test_what_a_user_writes_never_takes_a_words_place(text: str, count: int) -> None:
    tokenizer = prompts.Tokenizer(open_clip.SimpleTokenizer(context_length=32))  # type: ignore[no-untyped-call]
    prompt = prompts.assemble(tokenizer, "a photo of {words} that {text}", text, count)
    head = tokenizer.pieces("a photo of")
    assert prompt.places == tuple(range(len(head), len(head) + count))
    ids = tokenizer.rows([prompt])[0].tolist()
    assert tokenizer.end[0] in ids, "a prompt keeps its end"
    said = tokenizer.pieces(text)
    kept = len(said) - prompt.cut
    tail = [*tokenizer.pieces("that"), *said[:kept]]
    assert list(prompt.tokens[len(head) + count :]) == tail
    assert prompt.cut == 0 or len(prompt.tokens) == tokenizer.room


def test_gradients_reach_the_words(clip: Any) -> None:
    tokenizer = prompts.Tokenizer(open_clip.SimpleTokenizer(context_length=32))  # type: ignore[no-untyped-call]
    prompt = prompts.assemble(tokenizer, "a photo of {words}", "", 1)
    word = torch.randn(1, 96, requires_grad=True)
    prompts.encode(clip, tokenizer, [prompt], [word]).sum().backward()
    assert word.grad is not None
    assert word.grad.abs().sum() > 0


@pytest.mark.parametrize("which", ["clip", "custom"])
def test_what_stands_behind_the_ends_is_left_out_and_changes_nothing(
    which: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    raw = open_clip.SimpleTokenizer(context_length=32)  # type: ignore[no-untyped-call]
    ids = raw(["a red circle", "two small blue squares on a white background"])
    seen: list[int] = []
    tower = getattr(model, "text", model)
    hook = tower.transformer.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    try:
        with torch.no_grad():
            whole = model.encode_text(ids)
            made = prompts.text_features(model, ids)
    finally:
        hook.remove()
    assert seen == [32, int(ids.argmax(dim=1).max()) + 1]
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-5)
    assert tower.attn_mask.shape == (32, 32), "the model is as it was"


TOKENIZER: Any = open_clip.SimpleTokenizer(context_length=32)  # type: ignore[no-untyped-call]


@given(st.text(st.characters(max_codepoint=0x17F), max_size=40) | st.from_regex(r"[ -~]{0,40}"))
def test_pieces_are_the_tokenizers_own_tokens(text: str) -> None:
    assert prompts.Tokenizer(TOKENIZER).pieces(text) == TOKENIZER.encode(text)
