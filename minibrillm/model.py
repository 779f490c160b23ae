"""BriLLM: the waist. All below it is mathematics; all above it uses a model."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import numpy as np

from minibrillm.checks import (
    UserError,
    blocks,
    check_batch,
    check_candidates,
    check_continues,
    check_parameters,
    check_parts,
    check_stop,
    check_weights,
)
from minibrillm.config import ModelConfig
from minibrillm.counting import KneserNey, PriorRows, Withheld
from minibrillm.generation import Sampling, generate
from minibrillm.graph import TokenGraph
from minibrillm.memory import Path, State, start_state
from minibrillm.storage import save_model
from minibrillm.text import Tokenizer, documents_of, join_documents, train_tokenizer
from minibrillm.variance import Rounding

Array = np.ndarray
Parameters = dict[str, Array]

_BACKENDS = {"numba": "minibrillm.kernels", "numpy": "minibrillm.reference"}


@dataclass(repr=False, eq=False)
class BriLLM:
    """A signal-flow language model: nodes, edges, energy.

    ``parameters`` are named and shaped as ``config.shapes(graph.n_nodes, graph.n_edges)`` says, all
    float32 or all float64, which is the precision of everything computed. ``backend`` is "numba",
    the kernels, or "numpy", the textbook. What does not fit is a `UserError`.

    Examples
    --------
    >>> model = BriLLM.from_text("the cat sat on the mat. " * 9, backend="numpy")
    >>> model.energies(model.tokenizer.encode("the cat")).shape == (7, model.graph.n_nodes)
    True
    """

    config: ModelConfig
    tokenizer: Tokenizer
    graph: TokenGraph
    parameters: Parameters
    backend: str = "numba"

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            known = ", ".join(_BACKENDS)
            raise UserError(f"there is no backend {self.backend!r}; choose one of {known}")
        check_parts(self.config, self.tokenizer, self.graph)
        shapes = self.config.shapes(self.graph.n_nodes, self.graph.n_edges)
        check_parameters(shapes, self.parameters)

    @classmethod
    def from_text(
        cls,
        text: str | FilePath | Sequence[str],
        preset: str = "mini",
        *,
        tokenizer: str = "characters",
        n_nodes: int | None = None,
        seed: int = 0,
        backend: str = "numba",
        dtype: type = np.float32,
        **changes: Any,
    ) -> BriLLM:
        """A fresh, untrained model whose nodes and edges are those of a text.

        Parameters
        ----------
        text : str, Path, or a sequence of str
            A text, a file to read, or documents.
        preset : "paper", "released", "mini" or "mini-ngrams"
        tokenizer : "characters" or "bpe"
        n_nodes : int, optional
            Largest vocabulary.
        **changes
            Settings of `ModelConfig` that differ from the preset.
        """
        config, documents = ModelConfig.preset(preset, **changes), documents_of(text)
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
        rng, parameters = np.random.default_rng(seed), {}
        first, spread = config.first_values(), config.initial_range
        for name, shape in config.shapes(graph.n_nodes, graph.n_edges).items():
            parameters[name] = np.full(shape, first.get(name, 0), dtype)
            for block in blocks(parameters[name]) if name not in first else ():
                block[...] = rng.uniform(-spread, spread, block.size)
        return cls(config, tokenizer, graph, parameters, backend)

    def with_parameters(self, parameters: Parameters) -> BriLLM:
        """The same model with other numbers."""
        return BriLLM(self.config, self.tokenizer, self.graph, parameters, self.backend)

    def __repr__(self) -> str:
        c, graph = self.config, self.graph
        return (
            f"BriLLM({graph.n_nodes:,} nodes, {graph.n_edges:,} private edges, d = {c.d_node}; "
            f"memory {c.memory}, edges {c.edges}, prior {c.prior}: {self.n_parameters:,} parameters)"
        )

    @cached_property
    def operations(self) -> ModuleType:
        """The module that computes: `minibrillm.kernels` or `minibrillm.reference`."""
        found = importlib.import_module(_BACKENDS[self.backend])
        if self.config.edges not in getattr(found, "SUPPORTED_EDGES", [self.config.edges]):
            warnings.warn(
                f"the kernels do not know edges {self.config.edges!r}: the textbook computes, "
                "which is slower",
                stacklevel=2,
            )
            return importlib.import_module(_BACKENDS["numpy"])
        return found

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

    # ---------------------------------------------------------------- forward, loss, gradients

    def _batch(self, tokens: Any, state: State | None = None, least: int = 2) -> Array:
        """Tokens as an int64 array (B, T), checked; they begin where ``state`` stands."""
        first = 0 if state is None else state.position
        batch = check_batch(tokens, self.graph.n_nodes, least, first, self.max_positions)
        if state is not None:
            check_continues(batch, state.node, from_there=least > 1)
        return batch

    def path(self, tokens: Array, state: State | None = None) -> Path:
        """Send the signal along ``tokens`` (T,) or (B, T): `minibrillm.reference.path_forward`."""
        batch = self._batch(tokens, state)
        return self.operations.path_forward(self.parameters, self.graph, self.config, batch, state)

    def nll(
        self, tokens: Array, state: State | None = None, candidates: Array | None = None
    ) -> tuple[Array, State]:
        """−log p of every token after the first, in nats, (B, T - 1), and the memory after the last.

        Parameters
        ----------
        tokens : integer array (T,) or (B, T)
        state : State, optional
            Memory at ``tokens[:, 0]``; the next chunk of a stream starts with the last token of
            the one before.
        candidates : integer array (B, T-1, C), optional
            Targets in the softmax, the true one first; all V without it.
        """
        batch = self._batch(tokens, state)
        path = self.operations.path_forward(self.parameters, self.graph, self.config, batch, state)
        found = self.operations.compete(
            *(self.parameters, self.graph, self.config, batch, path),
            candidates=check_candidates(candidates, batch, self.graph.n_nodes),
            log_prior=self._rows(batch[:, :-1], state),
        )
        return found.nll, path.final

    def loss(
        self, tokens: Array, candidates: Array | None = None, weights: Array | None = None
    ) -> float:
        """Mean −log p(next token), in nats per token (MODEL.md, eq. 10)."""
        weights = check_weights(weights, self._batch(tokens))
        return _mean(self.nll(tokens, candidates=candidates)[0], weights)

    def loss_and_gradients(
        self,
        tokens: Array,
        candidates: Array | None = None,
        weights: Array | None = None,
        rounding: Rounding | None = None,
        mask: Array | None = None,
        bigrams: KneserNey | None = None,
    ) -> tuple[float, Parameters]:
        """The loss and its gradient with respect to every parameter, by name.

        Parameters
        ----------
        tokens, candidates
            As for `nll`.
        weights : array (B, T-1), optional
            How much each position counts in the mean; 0: not at all, as where a shorter
            sequence was filled up to the length of the others.
        rounding : Rounding, optional
            Gradients from rounded probabilities (MODEL.md, eq. 11b); the loss is exact.
        mask : array (B, d), optional
            What every signal of a sequence is multiplied by where it competes: dropout
            (MODEL.md, "Dropout").
        bigrams : KneserNey, optional
            Of the training text, order 2: an n-gram prior counts as if the tokens it is to foretell
            had not been read (MODEL.md, "Leave one out"); `tokens` must come from that text.
        """
        batch, ops, parts = self._batch(tokens), self.operations, (self.graph, self.config)
        candidates = check_candidates(candidates, batch, self.graph.n_nodes)
        weights = check_weights(weights, batch)
        share = np.ones(batch[:, 1:].shape) if weights is None else weights
        withheld = Withheld(batch[:, 1:], bigrams) if bigrams else None
        path = ops.path_forward(self.parameters, *parts, batch)
        heard = path.incoming if mask is None else path.incoming * mask[:, None]
        found = ops.compete(
            *(self.parameters, *parts, batch, path._replace(incoming=heard)),
            share=share / share.ravel().sum(),
            candidates=candidates,
            log_prior=self._rows(batch[:, :-1], withheld=withheld),
            rounding=rounding,
        )
        if mask is not None:
            found = found._replace(d_incoming=found.d_incoming * mask[:, None])
        gradients = ops.path_backward(self.parameters, *parts, batch, path, found)
        return _mean(found.nll, weights), gradients

    def energies(self, tokens: Array) -> Array:
        """How strongly every node answers after each token: (T,) -> (T, V), (B, T) -> (B, T, V)."""
        batch = self._batch(tokens, least=1)
        if batch.shape[1] == 1:
            incoming = self.read(batch).incoming[:, None]
        else:
            path = self.path(batch)
            incoming = np.concatenate([path.incoming, path.final.incoming[:, None]], axis=1)
        out = self.operations.energies(self.parameters, self.graph, self.config, batch, incoming)
        return out if np.ndim(tokens) == 2 else out[0]

    def prior(self, tokens: Array) -> Array:
        """π(· | u), what is added to the energies before the softmax, after each token of a stream.

        () -> (V,), (T,) -> (T, V), (B, T) -> (B, T, V); only the prior ``ngrams`` looks at more
        than the token itself.
        """
        tokens = np.asarray(tokens)
        wide = self._rows(np.atleast_2d(tokens))
        if wide is not None:
            return wide.log_prior.astype(np.float64).reshape(*tokens.shape, -1)
        rows = np.array([self.graph.prior_row(int(u)) for u in tokens.ravel()])
        return rows.reshape(*tokens.shape, self.graph.n_nodes)

    def _rows(
        self, tokens: Array, state: State | None = None, withheld: Withheld | None = None
    ) -> PriorRows | None:
        """π of an n-gram prior after each token of streams (B, T), else None.

        The streams stand at their first tokens, which the ``state`` has read already.
        """
        if self.graph.ngrams is None:
            return None
        n = tokens.shape[1]
        if state is not None and state.recent is not None:
            tokens = np.concatenate([state.recent[:, :-1], tokens], axis=1)
        trust = self.parameters["context_trust"]
        rows: PriorRows = self.operations.prior_rows(self.graph, trust, tokens, n, withheld)
        return rows

    # ------------------------------------------------------------------------------- streaming

    def read(self, tokens: Array, state: State | None = None) -> State:
        """Read one stream (T,) (or B of them) and return the memory after it, of size O(d).

        Reading one more token costs the same at position 10 and at 1 000 000.
        """
        batch = self._batch(tokens, state, least=1)
        if state is None:
            state, _ = start_state(self.parameters, self.config, batch[:, 0])
        else:
            batch = np.concatenate([state.node[:, None], batch], axis=1)
        return state if batch.shape[1] == 1 else self.path(batch, state).final

    def next_logits(self, state: State) -> Array:
        """Energy + prior of every node as the next token, (V,) float64."""
        node, incoming = state.node[:, None], state.incoming[:, None]
        e = self.operations.energies(
            self.parameters, self.graph, self.config, node, incoming, state.position
        )
        rows = self._rows(node, state)
        prior = self.prior(state.node) if rows is None else rows.log_prior[0]
        return e[0, 0].astype(np.float64) + prior[0]

    def stream(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        seed: int | None = None,
        stop: str | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """Generate text piece by piece, the prompt not included; arguments as for `generate`."""
        if n_tokens < 1:
            raise UserError(f"n_tokens is {n_tokens}; expected at least 1")
        how, rng, tok = Sampling.from_json(sampling), np.random.default_rng(seed), self.tokenizer
        banned = () if tok.unknown_id is None else (tok.unknown_id,)
        stop_ids = () if stop is None else check_stop(tok.encode(stop), tok.unknown_id, stop)
        ids, drawn = tok.encode(prompt), []
        if missing := tok.unknown(prompt):
            warnings.warn(
                f"the vocabulary lacks {' '.join(map(repr, missing))}: read as unknown",
                stacklevel=2,
            )
        if ids.size == 0:  # begin at a node drawn from the unigram
            weights = self.graph.node_counts.astype(np.float64)
            if weights.sum() > weights[[*stop_ids, *banned]].sum():
                weights[[*stop_ids, *banned]] = 0
            drawn = [int(rng.choice(len(weights), p=weights / weights.sum()))]
            ids = np.array(drawn)
        left = n_tokens - len(drawn)

        def tokens() -> Iterator[int]:
            yield from drawn
            yield from generate(self, ids, left, how, rng, stop=stop_ids, banned=banned)

        yield from tok.decode_stream(tokens())

    def generate(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        seed: int | None = None,
        stop: str | None = None,
        **sampling: Any,
    ) -> str:
        """Continue a prompt, in any language of the vocabulary; returns it with what follows.

        Parameters
        ----------
        prompt : str
            Empty: start at a node drawn from the unigram.
        n_tokens : int
            At most so many new tokens.
        seed : int, optional
            The same seed gives the same text.
        stop : str, optional
            A text of one token that ends the generation.
        **sampling
            Settings of `minibrillm.generation.Sampling`: temperature, top_k, top_p.
        """
        return prompt + "".join(self.stream(prompt, n_tokens, seed=seed, stop=stop, **sampling))


def _mean(nll: Array, weights: Array | None) -> float:
    """Mean over the positions, each counted as much as its weight."""
    return float(np.average(nll.astype(np.float64), weights=weights))
