"""Distances of layers: CKA from its definition in NumPy, and networks whose states are known."""

import numpy as np
import torch

from kd_lightning.report.layers import cka, distances


def test_cka_is_that_of_the_paper():
    """Kornblith et al. 2019, equation 3 with linear kernels: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(9, 4)), random.normal(size=(9, 6))
    centre = np.eye(9) - 1 / 9

    def hsic(a, b):
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre) / 64

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    np.testing.assert_allclose(float(cka(*map(torch.from_numpy, (x, y)))), expected, rtol=1e-12)
    turn = np.linalg.qr(random.normal(size=(4, 4)))[0]
    np.testing.assert_allclose(float(cka(*map(torch.from_numpy, (x, 3 * x @ turn + 1)))), 1, rtol=1e-12)


def test_a_network_is_at_no_distance_from_itself_and_at_some_from_another(tmp_path, make_encoder):
    rows = [(f"w{n} w{n + 3}", f"w{n + 9}") for n in range(10, 50)]
    for name, options in {"one": {"layers": 2, "seed": 0}, "other": {"layers": 3, "seed": 1}}.items():
        encoder = make_encoder(labels=("no", "yes"), **options)
        encoder.model.save_pretrained(tmp_path / name)
        encoder.tokenizer.save_pretrained(tmp_path / name)
    same, other = (distances(tmp_path / "one", tmp_path / name, rows, 16) for name in ("one", "other"))
    np.testing.assert_allclose(same.diagonal(), 0, atol=1e-6)
    assert other.shape == (3, 4)
    assert bool((other > 0.01).all())
