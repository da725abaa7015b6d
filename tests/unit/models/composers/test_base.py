"""The heads against the same mathematics in numpy at float64, and what must hold of every head."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models import composers
from pipeline.models.composers.base import Given, Head, padded

D, V, T = 12, 10, 5
Array = Any
erf = np.vectorize(math.erf)


def given(n: int = 7, seed: int = 0) -> Given:
    """Return n queries, with up to three entities each and five patch tokens."""
    rng = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        rows = torch.randn(*shape, generator=rng, dtype=torch.float64)
        return rows / rows.norm(dim=-1, keepdim=True)

    entities = padded([unit(place % 4, D) for place in range(n)], D).double()
    return Given(unit(n, D), unit(n, D), entities, unit(n, T, V))


def head(name: str) -> Head:
    """Return a head of random weights, without dropout, in float64."""
    torch.manual_seed(1)
    sizes = {"d": D} | ({"v": V, "tokens": T, "vectors": 3} if name == "multi-vector" else {})
    made = composers.find(name)(**sizes)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.double().eval()


# --- the same in numpy --------------------------------------------------------------------------


class Weights:
    """A head's weights by name, and the layers they are of."""

    def __init__(self, module: Head) -> None:
        self.of = {name: value.numpy() for name, value in module.state_dict().items()}

    def linear(self, name: str, x: Array) -> Array:
        bias = self.of.get(f"{name}.bias", 0)
        return x @ self.of[f"{name}.weight"].T + bias

    def feed(self, name: str, x: Array) -> Array:
        inner = self.linear(f"{name}.layers.0", x)
        return self.linear(f"{name}.layers.2", inner * (1 + erf(inner / np.sqrt(2))) / 2)

    def norm(self, name: str, x: Array) -> Array:
        middle = x - x.mean(-1, keepdims=True)
        scaled = middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]

    def attention(self, rows: Array, context: Array) -> Array:
        """Of one query: rows (r, d), context (c, d)."""
        keys, values = (self.linear(f"attention.{n}", context) for n in ("key", "value"))
        logits = self.linear("attention.query", rows) @ keys.T / np.sqrt(rows.shape[-1])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        return self.linear("attention.project", share / share.sum(-1, keepdims=True) @ values)


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def by_sum(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    return w.of["weights"][0] * v + w.of["weights"][1] * t


def by_gate(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    both = np.concatenate([v, t])
    a, b = w.of["weights"]
    return a * sigmoid(w.feed("gate", both)) * v + b * w.feed("residual", both)


def by_combiner(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    both = np.concatenate([w.linear("text.0", t), w.linear("image.0", v)]).clip(0)
    share = sigmoid(w.linear("share.3", w.linear("share.0", both).clip(0)))
    return w.linear("out", w.linear("inner.0", both).clip(0)) + share * t + (1 - share) * v


def by_two_hops(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    def hop(rows: Array, context: Array) -> Array:
        rows = rows + w.attention(w.norm("norms.0", rows), context)
        return rows + w.feed("feed", w.norm("norms.1", rows))

    image, text = v + w.of["kinds"][0], t + w.of["kinds"][1]
    rows = hop(hop(w.of["queries"], np.stack([image, text])), text[None])
    a, b = w.of["weights"]
    return np.concatenate([rows, t[None]]).mean(0) + a * v + b * t


def by_vectors(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    beside = np.concatenate([tokens, np.tile(t, (T, 1))], axis=1)
    changed = w.norm("norm", tokens + w.feed("change", beside))
    mixed = w.feed("mix_channels", w.linear("mix_tokens", changed.T).T)
    found = mixed + w.linear("pooled", v + t).reshape(mixed.shape)
    return (unit(found) / np.sqrt(len(found))).ravel()


def by_entities(w: Weights, v: Array, t: Array, entities: Array, tokens: Array) -> Array:
    there = entities[np.abs(entities).sum(1) > 0]
    kinds = w.of["kinds"]
    nodes = np.concatenate([[v + kinds[0], t + kinds[1]], there + kinds[2]])
    normed = w.norm("norm", nodes)
    text = nodes[1] + w.attention(normed[1:2], normed)[0]
    whole = np.concatenate([v, t, text])
    a, b = w.of["weights"]
    return a * sigmoid(w.feed("gate", whole)) * v + b * w.feed("residual", whole)


BY_HAND = {
    "sum": by_sum,
    "gated": by_gate,
    "combiner": by_combiner,
    "two-hop": by_two_hops,
    "multi-vector": by_vectors,
    "entities": by_entities,
}


def test_every_head_has_its_mathematics_here():
    assert set(BY_HAND) == set(composers.names())


@pytest.mark.parametrize("name", BY_HAND)
def test_heads_compute_what_they_say(name: str):
    queries, made = given(), head(name)
    with torch.no_grad():
        found = made(queries).numpy()
    assert queries.entities is not None
    assert queries.tokens is not None
    rows = (queries.images, queries.texts, queries.entities, queries.tokens)
    weights = Weights(made)
    for place, (v, t, own, tokens) in enumerate(zip(*(r.numpy() for r in rows), strict=True)):
        expected = unit(BY_HAND[name](weights, v, t, own, tokens))
        np.testing.assert_allclose(found[place], expected, atol=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_query_does_not_depend_on_the_others_and_has_length_one(name: str):
    queries, made = given(), head(name)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    with torch.no_grad():
        whole = made(queries)
        torch.testing.assert_close(made(queries[order]), whole[order])
        torch.testing.assert_close(made(queries[2:3]), whole[2:3])
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7, dtype=torch.float64))


def test_entities_are_a_set_and_what_is_padded_says_nothing():
    queries, made = given(), head("entities")
    assert queries.entities is not None
    more = torch.cat([queries.entities.flip(1), torch.zeros(7, 2, D, dtype=torch.float64)], dim=1)
    with torch.no_grad():
        own = made(queries)
        torch.testing.assert_close(made(Given(queries.images, queries.texts, more)), own)
        alone = made(Given(queries.images, queries.texts))
    torch.testing.assert_close(alone[0], own[0])  # it has no entity
    assert not torch.allclose(alone[3], own[3])


def test_inner_products_of_several_vectors_are_means_of_cosines():
    queries, made = given(), head("multi-vector")
    with torch.no_grad():
        one, other = made(queries), made.targets(queries.images, queries.tokens)
    cosines = torch.nn.functional.cosine_similarity(
        one.view(7, 1, 3, -1), other.view(1, 7, 3, -1), dim=3
    )
    torch.testing.assert_close(one @ other.T, cosines.mean(dim=2))


def test_the_prototype_is_hop_one():
    queries, made = given(), head("two-hop")
    w = Weights(made)
    with torch.no_grad():
        found = made.prototype(queries)
    assert found is not None
    context = np.stack([queries.images[4].numpy(), queries.texts[4].numpy()]) + w.of["kinds"]
    rows = w.of["queries"]
    rows = rows + w.attention(w.norm("norms.0", rows), context)
    rows = rows + w.feed("feed", w.norm("norms.1", rows))
    np.testing.assert_allclose(found[4].numpy(), unit(rows.mean(0)), atol=1e-12)
    assert head("gated").prototype(queries) is None


def test_an_unknown_head_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'combiner'"):
        composers.find("combinr")
