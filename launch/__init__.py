"""From an experiment to runs: its stages and what they need, who runs them, and how far they are."""
