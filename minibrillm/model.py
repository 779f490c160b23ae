"""BriLLM: the whole model. The files before this one are its mathematics, those after use it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import numpy as np

from minibrillm import checks, reference
from minibrillm.config import ModelConfig
from minibrillm.counting import KneserNey, Withheld, log_prior_after, rows_after
from minibrillm.functional import Named
from minibrillm.generation import write
from minibrillm.graph import TokenGraph
from minibrillm.memory import Path, State, start_state
from minibrillm.storage import save_model
from minibrillm.text import Tokenizer, documents_of, join_documents, train_tokenizer
from minibrillm.variance import Rounding

Array = np.ndarray
Maybe = Array | None


@dataclass(repr=False, eq=False)
class BriLLM:
    """A signal-flow language model: nodes, edges, energy.

    ``parameters`` are named and shaped as ``config.shapes(graph.n_nodes, graph.n_edges)`` says, all
    float32 or all float64, which is the precision of everything computed. ``backend`` is "numba",
    the kernels, or "numpy", the textbook. What does not fit is a `UserError`.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    graph: TokenGraph
    parameters: Named
    backend: str = "numba"

    def __post_init__(self) -> None:
        checks.check_parts(self.config, self.tokenizer, self.graph, self.backend)
        shapes = self.config.shapes(self.graph.n_nodes, self.graph.n_edges)
        checks.check_parameters(shapes, self.parameters)
        if self.backend == "numba" and self.config.edges not in self.operations.SUPPORTED_EDGES:
            what = f"the kernels do not know edges {self.config.edges!r}"
            warnings.warn(f"{what}: the textbook computes, which is slower", stacklevel=3)
            self.backend = "numpy"

    @classmethod
    def from_text(
        cls,
        text: str | FilePath | Sequence[str],
        preset: str = "mini",
        *,
        tokenizer: str = "characters",
        n_nodes: int | None = None,
        encoding: str | None = None,
        seed: int = 0,
        backend: str = "numba",
        dtype: type = np.float32,
        **changes: Any,
    ) -> BriLLM:
        """A fresh, untrained model whose nodes and edges are those of a text.

        The text is a string, a `pathlib.Path` of a file to read, in an ``encoding`` that is found
        out by itself, or a sequence of documents; tokenizers are "characters" and "bpe";
        ``n_nodes`` is the largest vocabulary; ``changes`` are settings of `ModelConfig` that differ
        from the preset.
        """
        config, documents = ModelConfig.preset(preset, **changes), documents_of(text, encoding)
        tok = train_tokenizer(join_documents(documents), tokenizer, n_nodes)
        graph = TokenGraph.for_config(config, [tok.encode(d) for d in documents], tok.n_nodes)
        return cls.create(config, tok, graph, seed=seed, backend=backend, dtype=dtype)

    @classmethod
    def create(
        cls,
        config: ModelConfig,
        tokenizer: Tokenizer,
        graph: TokenGraph,
        *,
        seed: int = 0,
        backend: str = "numba",
        dtype: type = np.float32,
    ) -> BriLLM:
        """A fresh model with first weights drawn from ``seed`` (MODEL.md, "Variants")."""
        rng, parameters = np.random.default_rng(seed), Named()
        given, zero = config.first_values(), config.edge_kind.zero_at_first
        spread = config.initial_range
        for name, shape in config.shapes(graph.n_nodes, graph.n_edges).items():
            parameters[name] = np.full(shape, given.get(name, 0), dtype)
            if name not in given and name not in zero:
                for block in checks.blocks(parameters[name]):  # piece by piece, to spare memory
                    block[...] = rng.uniform(-spread, spread, block.size)
        return cls(config, tokenizer, graph, parameters, backend)

    def with_parameters(self, parameters: Named) -> BriLLM:
        """The same model with other numbers."""
        return BriLLM(self.config, self.tokenizer, self.graph, parameters, self.backend)

    def __repr__(self) -> str:
        c, graph, size = self.config, self.graph, self.n_parameters
        kinds = f"memory {c.memory}, edges {c.edges}, prior {c.prior}"
        nodes = f"{graph.n_nodes:,} nodes, {graph.n_edges:,} private edges"
        return f"BriLLM({nodes}, d = {c.d_node}, {kinds}: {size:,} parameters)"

    @property
    def operations(self) -> ModuleType:
        """The module that computes: `minibrillm.kernels` or `minibrillm.reference`."""
        if self.backend == "numpy":
            return reference
        from minibrillm import kernels

        return kernels

    @property
    def n_parameters(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.parameters.values())

    @property
    def max_positions(self) -> int | None:
        """Edges a stream may cross; None: no limit (every memory but ``position``)."""
        return self.config.memory_kind.limit(self.config)

    def save(self, path: str | FilePath) -> None:
        """Write the model into a folder; `minibrillm.load` reads it."""
        save_model(path, self)

    def _batch(self, tokens: Any, state: State | None = None, least: int = 2) -> Array:
        """Tokens as an int64 array (B, T), checked; they begin where ``state`` stands."""
        return checks.check_batch(tokens, self.graph.n_nodes, least, state, self.max_positions)

    def path(self, tokens: Array, state: State | None = None) -> Path:
        """Send the signal along ``tokens`` (T,) or (B, T): `minibrillm.reference.path_forward`."""
        return self.operations.path_forward(self, self._batch(tokens, state), state)

    def nll(
        self, tokens: Array, state: State | None = None, candidates: Maybe = None
    ) -> tuple[Array, State]:
        """−log p of every token after the first, nats, (B, T - 1), and the memory after the last.

        ``tokens`` (T,) or (B, T); ``state`` is the memory at ``tokens[:, 0]``, so the next chunk of
        a stream starts with the last token of the one before. ``candidates`` (B, T-1, C) are the
        targets in the softmax, the true one first; without them, all V.
        """
        batch, ops = self._batch(tokens, state), self.operations
        chosen = checks.check_candidates(candidates, batch, self.graph.n_nodes)
        path, rows = ops.path_forward(self, batch, state), rows_after(self, batch[:, :-1], state)
        return ops.compete(self, batch, path, candidates=chosen, prior=rows).nll, path.final

    def loss(self, tokens: Array, candidates: Maybe = None, weights: Maybe = None) -> float:
        """Mean −log p(next token), in nats per token (MODEL.md, eq. 10)."""
        weights = checks.check_weights(weights, self._batch(tokens))
        nll, _ = self.nll(tokens, candidates=candidates)
        return float(np.average(nll.astype(np.float64), weights=weights))

    def loss_and_gradients(
        self,
        tokens: Array,
        candidates: Maybe = None,
        weights: Maybe = None,
        rounding: Rounding | None = None,
        mask: Maybe = None,
        bigrams: KneserNey | None = None,
    ) -> tuple[float, Named]:
        """The loss and its gradient with respect to every parameter, by name.

        ``tokens`` and ``candidates`` as for `nll`. ``weights`` (B, T-1) say how much each position
        counts in the mean; 0 where a shorter sequence was filled up. From MODEL.md: ``rounding`` of
        small probabilities (eq. 11b), a ``mask`` (B, d) for every signal of a sequence where it
        competes ("Dropout"), and the ``bigrams`` of the training text, with which an n-gram prior
        counts as if what it is to foretell had not been read ("Leave one out").
        """
        batch, ops = self._batch(tokens), self.operations
        candidates = checks.check_candidates(candidates, batch, self.graph.n_nodes)
        weights = checks.check_weights(weights, batch)
        share = np.ones(batch[:, 1:].shape) if weights is None else weights
        withheld = Withheld(batch[:, 1:], bigrams) if bigrams else None
        path = ops.path_forward(self, batch)
        heard = path if mask is None else path._replace(incoming=path.incoming * mask[:, None])
        found = ops.compete(
            *(self, batch, heard),
            share=share / share.ravel().sum(),
            candidates=candidates,
            prior=rows_after(self, batch[:, :-1], withheld=withheld),
            rounding=rounding,
        )
        if mask is not None:
            found = found._replace(d_incoming=found.d_incoming * mask[:, None])
        loss = float(np.average(found.nll.astype(np.float64), weights=weights))
        return loss, ops.path_backward(self, batch, path, found)

    def energies(self, tokens: Array) -> Array:
        """How strongly every node answers after each token: (T,) -> (T, V), (B, T) -> (B, T, V)."""
        batch = self._batch(tokens, least=1)
        path = self.operations.path_forward(self, batch)
        incoming = np.concatenate([path.incoming, path.final.incoming[:, None]], axis=1)
        out: Array = self.operations.energies(self, batch, incoming)
        return out if np.ndim(tokens) == 2 else out[0]

    def prior(self, tokens: Array) -> Array:
        """π(· | u), what is added to the energies, after each token of a stream: (T,) -> (T, V)."""
        return log_prior_after(self, tokens)

    def read(self, tokens: Array, state: State | None = None) -> State:
        """Read one stream (T,), or B of them, and return the memory after it, of size O(d)."""
        batch = self._batch(tokens, state, least=1)
        if state is None:
            state, _ = start_state(self, batch[:, 0])
        else:
            batch = np.concatenate([state.node[:, None], batch], axis=1)
        return state if batch.shape[1] == 1 else self.path(batch, state).final

    def next_logits(self, state: State) -> Array:
        """Energy + prior of every node as the next token, (V,) float64."""
        node, incoming = state.node[:, None], state.incoming[:, None]
        e = self.operations.energies(self, node, incoming, state.position)[0, 0]
        return e.astype(np.float64) + log_prior_after(self, node, state)[0, 0]

    def stream(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        seed: int | None = None,
        stop: str | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """Continue a prompt piece by piece, itself not included, with at most so many tokens.

        Without a prompt it starts at a node drawn from the unigram. It ends before the text
        ``stop``; `Sampling` has temperature, top_k and top_p.
        """
        return write(self, prompt, n_tokens, seed, stop, **sampling)

    def generate(self, prompt: str = "", n_tokens: int = 200, **how: Any) -> str:
        """The prompt and what `stream` lets follow it, with the same arguments."""
        return prompt + "".join(self.stream(prompt, n_tokens, **how))
