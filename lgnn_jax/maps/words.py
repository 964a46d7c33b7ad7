"""What messages of errors have in common."""

import difflib


def did_you_mean(word: str, known: list[str]) -> str:
    """Returns "; did you mean 'x'?" for the entry of `known` that is like `word`, or "."."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
