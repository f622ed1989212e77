"""Random programs over the whole table of ops, and the question whether two ways to evaluate them agree."""

from attnc.fuzz.run import Failure, Summary, disagreement, fuzz

__all__ = ["Failure", "Summary", "disagreement", "fuzz"]
