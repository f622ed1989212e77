"""Random programs over the whole table of ops, and the question whether two ways to evaluate them agree."""

import attnc

# The decorator, looked up before anything here imports the module of that name, which would hide it from files loaded later.
attnc.variant  # noqa: B018

from attnc.fuzz.run import Failure, Summary, disagreement, fuzz  # noqa: E402

__all__ = ["Failure", "Summary", "disagreement", "fuzz"]
