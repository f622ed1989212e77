"""The example's model against PyTorch's encoder layers, and its attnc variant against its NumPy attention."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "minilm.py"


@pytest.fixture(scope="module")
def minilm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minilm", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(minilm):
    return minilm.MiniLM.load(minilm.get_model_path())


@pytest.fixture(scope="module")
def embeddings(minilm, model):
    """All sentences in one padded batch, by the NumPy attention."""
    return model.embed(model.tokenize(minilm.SENTENCES), minilm.numpy_attention)


def encoder_layer(weights: dict[str, np.ndarray], name: str) -> torch.nn.TransformerEncoderLayer:
    """A layer of BERT is PyTorch's post-norm encoder layer with GELU."""
    layer = torch.nn.TransformerEncoderLayer(
        384, 12, 1536, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True, dtype=torch.float64
    )
    pairs = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    state = {
        f"{ours}.{part}": weights[f"{name}.{theirs}.{part}"]
        for ours, theirs in pairs.items()
        for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        roles = [weights[f"{name}.attention.self.{role}.{part}"] for role in ("query", "key", "value")]
        state[f"self_attn.in_proj_{part}"] = np.concatenate(roles)
    layer.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return layer.eval()


def test_the_model_is_bert(minilm, model, embeddings):
    """Each sentence alone, without padding, through PyTorch in float64."""
    batch = model.tokenize(minilm.SENTENCES[:4])
    weights = model.weights
    layers = [encoder_layer(weights, f"encoder.layer.{n}") for n in range(6)]
    for tokens, length, embedding in zip(batch.tokens, batch.length, embeddings[:4], strict=True):
        x = weights["embeddings.word_embeddings.weight"][tokens[:length]].astype(np.float64)
        x = x + weights["embeddings.position_embeddings.weight"][:length]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        scale, shift = (weights[f"embeddings.LayerNorm.{part}"].astype(np.float64) for part in ("weight", "bias"))
        hidden = torch.nn.functional.layer_norm(
            torch.from_numpy(x), (384,), torch.from_numpy(scale), torch.from_numpy(shift), 1e-12
        )[None]
        with torch.no_grad():
            for layer in layers:
                hidden = layer(hidden)
        expected = torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0).numpy()
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-6)


def test_the_variant_gives_the_same_embeddings(minilm, model, embeddings):
    batch = model.tokenize(minilm.SENTENCES)
    assert (batch.length.min(), batch.length.max(), len(batch.length)) == (3, 200, 16)
    difference = np.abs(model.embed(batch, minilm.padded) - embeddings).max()
    assert difference <= minilm.TOLERANCE


def test_paraphrases_find_each_other(minilm, embeddings):
    nearest = {row: other for row, other, _ in minilm.nearest(embeddings)}
    for one, other in ((1, 2), (3, 4), (5, 6), (7, 8), (11, 12)):
        assert (nearest[one], nearest[other]) == (other, one)
