"""Dead letters: what they are, which of them somebody looks for, and what it means to try one again."""
