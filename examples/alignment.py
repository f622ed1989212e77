"""Cross-attention that aligns a translation: a decoder's French words look at an encoder's English words.

The scores are Luong's "general" form, q W k, with a Gaussian around the place where the reading should be, as in his local
attention. W is learned from the sentence pairs below by least squares: the words of a French sentence, mapped by W, must add
up to the words of its English sentence. No pair says which word belongs to which; the alignment of a sentence that is not
among them comes out of W.

Run it with `python examples/alignment.py [PNG]` (needs the extra `attnc[viz]`); it prints the alignment and draws it.
Sources: Bahdanau, Cho, Bengio 2014 (arXiv 1409.0473; the sentence and the picture); Luong, Pham, Manning 2015 (arXiv 1508.04025).
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import attnc as at
from attnc.viz.heatmap import heatmap
from attnc.viz.text import text

Array = np.ndarray

ENGLISH = "The agreement on the European Economic Area was signed in August 1992."
FRENCH = "L'accord sur la zone économique européenne a été signé en août 1992."
CORPUS = """
The agreement was signed.                       | L'accord a été signé.
The agreement was signed in Paris.              | L'accord a été signé à Paris.
We have an agreement on fishing.                | Nous avons un accord sur la pêche.
They want an agreement on the climate.          | Ils veulent un accord sur le climat.
The agreement is good.                          | L'accord est bon.
The treaty was signed in June 1990.             | Le traité a été signé en juin 1990.
The contract was signed in March.               | Le contrat a été signé en mars.
The letter was signed by the king.              | La lettre a été signée par le roi.
The town was founded in 1850.                   | La ville a été fondée en 1850.
The bridge was built in 1990.                   | Le pont a été construit en 1990.
The bread was eaten.                            | Le pain a été mangé.
He was born in August 1992.                     | Il est né en août 1992.
She was born in March 1985.                     | Elle est née en mars 1985.
We travel in August.                            | Nous voyageons en août.
They travel in June.                            | Ils voyagent en juin.
August is warm.                                 | Août est chaud.
The war ended in 1992.                          | La guerre finit en 1992.
In 1992 we lived in Paris.                      | En 1992 nous vivions à Paris.
The European Union is large.                    | L'union européenne est grande.
The European Commission has spoken.             | La commission européenne a parlé.
European history is long.                       | L'histoire européenne est longue.
We study European law and European politics.    | Nous étudions la loi européenne et la politique européenne.
The economic crisis was long.                   | La crise économique a été longue.
The economic union is small.                    | L'union économique est petite.
We study economic history.                      | Nous étudions l'histoire économique.
Economic growth is good.                        | La croissance économique est bonne.
The area is small.                              | La zone est petite.
The industrial area is large.                   | La zone industrielle est grande.
They live in a rural area.                      | Ils vivent dans une zone rurale.
This area is closed.                            | Cette zone est fermée.
The town has a new area.                        | La ville a une nouvelle zone.
The book is on the table.                       | Le livre est sur la table.
The cat sleeps on the bed.                      | Le chat dort sur le lit.
He wrote a book on history.                     | Il écrivit un livre sur l'histoire.
The debate on the law has ended.                | Le débat sur la loi a fini.
The king is old.                                | Le roi est vieux.
The law is new.                                 | La loi est nouvelle.
The climate is warm.                            | Le climat est chaud.
The cat is small and old.                       | Le chat est petit et vieux.
The table is new.                               | La table est nouvelle.
"""


@at.attention
def luong(q, k, v, i, j, *, W: at.Tensor["d", "d"], sharpness: float = 12.0, reach: float = 2.0):
    """softmax_j(sharpness · q_i W k_j − (j − i Lk / Lq)² / 2 reach²) v_j."""
    distance = j - i * at.kv_len / at.q_len
    return at.softmax(sharpness * at.dot(q @ W, k) - distance**2 / (2 * reach**2)) @ v


def words(sentence: str) -> list[str]:
    """Lower-case words and stops; an elided article is a word: l', accord."""
    return re.findall(r"\w+'?|[.,]", sentence.lower())


@dataclass(frozen=True)
class Model:
    """Word vectors of both languages, one-hot in a common dimension D, and W (D, D)."""

    english: dict[str, int]
    french: dict[str, int]
    W: Array

    @classmethod
    def learn(cls, corpus: str, ridge: float = 1.0) -> "Model":
        """Minimises, over the sentence pairs, |sum of q_i W − sum of k_j|² + ridge |W|²: the normal equations."""
        pairs = [[words(side) for side in line.split("|")] for line in corpus.strip().splitlines()]
        english, french = (numbered(sentences) for sentences in zip(*pairs, strict=True))
        size = max(len(english), len(french))
        k = np.array([one_hot(sentence, english, size).sum(axis=0) for sentence, _ in pairs])
        q = np.array([one_hot(sentence, french, size).sum(axis=0) for _, sentence in pairs])
        return cls(english, french, np.linalg.solve(q.T @ q + ridge * np.eye(size), q.T @ k))

    def align(self, english: str, french: str, attention: Callable[..., Array] = luong) -> Array:
        """The attention matrix (French words, English words): cross-attention whose values are the identity."""
        q = one_hot(words(french), self.french, len(self.W))
        k = one_hot(words(english), self.english, len(self.W))
        return attention(q, k, np.eye(len(k)), W=self.W)


def numbered(sentences: Iterable[list[str]]) -> dict[str, int]:
    """The vocabulary of the sentences, each word with its number."""
    return {word: n for n, word in enumerate(sorted(set().union(*sentences)))}


def one_hot(sentence: list[str], vocabulary: dict[str, int], size: int) -> Array:
    """(words, size), float64; KeyError for a word that the corpus does not have."""
    return np.eye(size)[[vocabulary[word] for word in sentence]]


def main(path: Path) -> None:
    """Prints the most attended English word of each French word and the matrix; draws it to `path`."""
    weights = Model.learn(CORPUS).align(ENGLISH, FRENCH)
    english, french = words(ENGLISH), words(FRENCH)
    for word, row in zip(french, weights, strict=True):
        print(f"{word:>12} -> {english[row.argmax()]:<12} {row.max():.2f}")
    print(text(weights, french, english))
    heatmap(weights, french, english, title="Luong attention, learned from sentence pairs", path=path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "alignment.png"))
