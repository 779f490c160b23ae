"""Names, in type hints, for what stands on a higher floor: files below must not import it."""

from __future__ import annotations

from typing import Any, TypeAlias

Network: TypeAlias = Any  # a `BriLLM`, or what has its config, graph, parameters and operations
Settings: TypeAlias = Any  # a `ModelConfig` or `TrainConfig`
Graph: TypeAlias = Any  # a `TokenGraph`
Standing: TypeAlias = Any  # a `State`
Reader: TypeAlias = Any  # a `Tokenizer`
