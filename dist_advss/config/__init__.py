"""One typed, validated configuration: the schema, its composition and its checks."""

from .compose import as_yaml, compose, config_dir, fill, options, parse_words
from .schema import EvaluateConfig, TrainConfig

__all__ = ["EvaluateConfig", "TrainConfig", "as_yaml", "compose", "config_dir", "fill", "options", "parse_words"]
