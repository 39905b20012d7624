"""CKA against a published package, D-MNN against scikit-learn: random features and a ResNet's."""

from __future__ import annotations

import itertools

import ckatorch
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nas_theseus.conversion.similarities.cka import Cka, linear_cka
from nas_theseus.conversion.similarities.cka_unbiased import UnbiasedCka, unbiased_linear_cka
from nas_theseus.conversion.similarities.dmnn import mutual_neighbours
from nas_theseus.conversion.similarity import agreement, similarity
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import digits

SIZES = [(4, 3, 5), (8, 300, 7), (64, 10, 20), (32, 500, 300), (200, 16, 64), (256, 1024, 8)]


def random_features(n: int, d: int, e: int) -> tuple[Tensor, Tensor]:
    """Two sets of features of n examples, d and e wide, that share part of what they hold."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 1
    noise = torch.randn(n, e, generator=generator, dtype=torch.float64)
    mixing = torch.randn(d, e, generator=generator, dtype=torch.float64) / d**0.5
    return x, torch.relu(x @ mixing) + noise - 3


@pytest.fixture(scope="module")
def real_features() -> dict[str, Tensor]:
    """A small ResNet's activations on 96 digits, (96, C, H, W): untrained, and trained shortly."""
    torch.manual_seed(0)
    task, network = digits(), ResNet((1, 1), width=8)
    images, found = task.sample(96), {}

    def keep(state: str) -> None:
        network.eval()
        features = images
        with torch.no_grad():
            for name in network.cuts:
                features = network.get_submodule(name)(features)
                found[f"{state} {name}"] = features

    keep("untrained")
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for batch in task.batches("train", 64, seed=0, limit=20 * 64):
        loss = task.loss(network(batch.inputs), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]  # it did learn
    keep("trained")
    assert len(found) == 6
    return found


@pytest.mark.parametrize(("n", "d", "e"), SIZES)
def test_cka_is_the_package_s_the_gram_form_and_the_feature_form(n: int, d: int, e: int) -> None:
    x, y = random_features(n, d, e)
    found = linear_cka(x, y).item()
    assert 0.01 < found < 0.99
    assert found == pytest.approx(ckatorch.cka_base(x, y).item(), abs=1e-12)
    a, b = ((f - f.mean(0)).numpy() for f in (x, y))
    gram = np.sum((a @ a.T) * (b @ b.T)) / np.linalg.norm(a @ a.T) / np.linalg.norm(b @ b.T)
    assert found == pytest.approx(gram, abs=1e-12)
    feature = np.linalg.norm(b.T @ a) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert found == pytest.approx(feature, abs=1e-12)


@pytest.mark.parametrize(("n", "d", "e"), SIZES)
def test_unbiased_cka_is_the_package_s(n: int, d: int, e: int) -> None:
    x, y = random_features(n, d, e)
    found = unbiased_linear_cka(x, y).item()
    assert found == pytest.approx(ckatorch.cka_batch(x[None], y[None]).item(), abs=1e-10)
    assert found == pytest.approx(ckatorch.cka_base(x, y, unbiased=True).item(), abs=1e-10)
    assert abs(found - linear_cka(x, y).item()) > 1e-3


def test_cka_of_a_network_s_features_is_the_package_s(real_features: dict[str, Tensor]) -> None:
    """In float32, as training compares them; the package computes in float64."""
    values = []
    places_alone = Cka(examples="positions", pool=None, rows=None)
    for (one, x), (other, y) in itertools.combinations(real_features.items(), 2):
        flat = x.flatten(1), y.flatten(1)
        expected = ckatorch.cka_base(*flat).item()
        assert agreement(Cka(examples="maps", pool=None), x, y).item() == pytest.approx(
            expected, abs=1e-5
        )
        values.append(expected)
        batches = [f[None] for f in flat]
        unbiased = agreement(UnbiasedCka(examples="maps", pool=None), x, y).item()
        assert unbiased == pytest.approx(ckatorch.cka_batch(*batches).item(), abs=1e-4)
        if x.shape[2:] == y.shape[2:]:
            places = (f.permute(0, 2, 3, 1).flatten(0, 2) for f in (x, y))
            found = agreement(places_alone, x, y).item()
            assert found == pytest.approx(ckatorch.cka_base(*places).item(), abs=1e-5), (one, other)
    assert len(values) == 15
    assert max(values) - min(values) > 0.2


def hard_mutual_neighbours(x: Tensor, y: Tensor, k: int) -> float:
    """Share of the k nearest neighbours by cosine of centred features that x and y agree on."""
    sets = []
    for features in (x, y):
        centred = (features - features.mean(0)).numpy()
        found = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(centred)
        sets.append(found.kneighbors(return_distance=False))  # an example is not its own neighbour
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*sets, strict=True)]))


@pytest.mark.parametrize("k", [1, 5])
def test_dmnn_falls_to_hard_mutual_neighbours_with_the_temperature(
    real_features: dict[str, Tensor], k: int
) -> None:
    real = [
        real_features[name].flatten(1).double() for name in ("untrained block2", "trained block2")
    ]
    for x, y in (random_features(64, 10, 20), real):
        hard = hard_mutual_neighbours(x, y, k)
        gaps = [
            abs(mutual_neighbours(x, y, temperature, k).item() - hard)
            for temperature in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-8)
        ]
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.1
        assert gaps[-1] < 1e-6
        assert 0 < hard < 1


@pytest.mark.parametrize("name", ["cka", "cka-unbiased", "dmnn", "regression", "cosine"])
def test_gradients_on_a_network_s_features(name: str, real_features: dict[str, Tensor]) -> None:
    guide, target = (
        real_features[f"{state} block1"][:12].double() for state in ("trained", "untrained")
    )
    form = similarity(name, pool=2)
    prepared = form.prepare(guide)
    assert torch.autograd.gradcheck(
        lambda features: form.loss(features, prepared), (target.requires_grad_(),), fast_mode=True
    )
