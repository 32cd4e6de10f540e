"""One typed, validated configuration: the schema, its composition and its checks."""

from .compose import as_yaml, compose, compose_data, compose_node, config_dir, options, parse_words, restore, schema_of
from .schema import EvaluateConfig, TrainConfig, TransferConfig

__all__ = [
    "EvaluateConfig",
    "TrainConfig",
    "TransferConfig",
    "as_yaml",
    "compose",
    "compose_data",
    "compose_node",
    "config_dir",
    "options",
    "parse_words",
    "restore",
    "schema_of",
]
