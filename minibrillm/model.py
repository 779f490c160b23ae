"""BriLLM: the waist. All below it is mathematics; all above it uses a model."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.counting import KneserNey
from minibrillm.functional import Path, PriorRows, Rounding, State, Withheld
from minibrillm.generation import Sampling, generate
from minibrillm.graph import TokenGraph
from minibrillm.parameters import Parameters, check_parameters, initialise
from minibrillm.text import Tokenizer, join_documents, train_tokenizer

Array = np.ndarray

_BACKENDS = {"numba": "minibrillm.kernels", "numpy": "minibrillm.reference"}


@dataclass
class BriLLM:
    """A signal-flow language model: nodes, edges, energy.

    Parameters
    ----------
    config : ModelConfig
    tokenizer : Tokenizer
    graph : TokenGraph
    parameters : dict of arrays
        Named and shaped as ``config.shapes(graph.n_nodes, graph.n_edges)`` says; all float32 or
        all float64, which is the precision of everything computed.
    backend : "numba" or "numpy"
        The kernels, or the textbook.

    Raises
    ------
    UserError
        Parameters that do not fit or are not finite; an unknown backend.

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
            raise UserError(
                f"there is no backend {self.backend!r}; choose one of {', '.join(_BACKENDS)}"
            )
        if self.tokenizer.n_nodes != self.graph.n_nodes:
            raise UserError(
                f"the tokenizer knows {self.tokenizer.n_nodes} tokens, the graph has "
                f"{self.graph.n_nodes} nodes; they must come from the same run"
            )
        if (self.graph.prior is not None) != (self.config.prior != "none"):
            has = "no prior" if self.graph.prior is None else "a prior"
            raise UserError(
                f"the config says prior {self.config.prior!r} but the graph has {has}; build it "
                "with TokenGraph.for_config"
            )
        order = 0 if self.graph.ngrams is None else self.graph.ngrams.order
        if order != (self.config.prior_order if self.config.prior == "ngrams" else 0):
            raise UserError(
                f"the config says prior {self.config.prior!r} of order {self.config.prior_order} "
                f"but the graph has n-grams of order {order}; build it with TokenGraph.for_config"
            )
        check_parameters(self.config, self.graph.n_nodes, self.graph.n_edges, self.parameters)

    @classmethod
    def from_text(
        cls,
        text: str | Sequence[str],
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
        text : str, or a sequence of documents
        preset : "paper", "released", "mini" or "mini-ngrams"
        tokenizer : "characters" or "bpe"
        n_nodes : int, optional
            Largest vocabulary.
        seed : int
            Of the initial weights.
        **changes
            Settings of `ModelConfig` that differ from the preset.
        """
        config = ModelConfig.preset(preset, **changes)
        documents = [text] if isinstance(text, str) else text
        tok = train_tokenizer(join_documents(documents), tokenizer, n_nodes)
        ids = [tok.encode(document) for document in documents]
        graph = TokenGraph.for_config(config, ids, tok.n_nodes)
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
        """A fresh model with initial weights drawn from ``seed``."""
        rng = np.random.default_rng(seed)
        parameters = initialise(config, graph.n_nodes, graph.n_edges, rng, dtype)
        return cls(config, tokenizer, graph, parameters, backend)

    def with_parameters(self, parameters: Parameters) -> BriLLM:
        """The same model with other numbers."""
        return BriLLM(self.config, self.tokenizer, self.graph, parameters, self.backend)

    @property
    def operations(self) -> ModuleType:
        """The module that computes: `minibrillm.kernels` or `minibrillm.reference`."""
        return importlib.import_module(_BACKENDS[self.backend])

    @property
    def n_parameters(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.parameters.values())

    @property
    def max_positions(self) -> int | None:
        """Edges a stream may cross; None: no limit (every memory but ``position``)."""
        return self.config.max_positions if self.config.memory == "position" else None

    # ---------------------------------------------------------------- forward, loss, gradients

    def _batch(self, tokens: Array, state: State | None = None, least: int = 2) -> Array:
        """Tokens as an int64 array (B, T), checked."""
        tokens = np.asarray(tokens)
        if tokens.size and not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(f"tokens must be integers, got {tokens.dtype}; use tokenizer.encode")
        batch = np.atleast_2d(tokens).astype(np.int64)
        if batch.ndim != 2 or batch.size == 0 or batch.shape[1] < least:
            raise UserError(f"expected tokens (T,) or (B, T) with T >= {least}; got {tokens.shape}")
        if batch.min() < 0 or batch.max() >= self.graph.n_nodes:
            raise UserError(
                f"token ids must lie in 0 … {self.graph.n_nodes - 1}; "
                f"got {batch.min()} … {batch.max()}"
            )
        if state is not None and len(state.node) != len(batch):
            raise UserError(
                f"the state holds {len(state.node)} stream(s), the tokens {len(batch)}; "
                "give each stream its own row"
            )
        start = 0 if state is None else state.position
        if self.max_positions is not None and start + batch.shape[1] - 1 > self.max_positions:
            raise UserError(
                f"this model knows {self.max_positions} positions (memory 'position'), the text "
                f"needs {start + batch.shape[1] - 1}; shorten it or read it in windows"
            )
        return batch

    def _continued(self, tokens: Array, state: State | None) -> Array:
        """A checked batch whose first token is the node at which ``state`` stands."""
        batch = self._batch(tokens, state)
        if state is not None and not np.array_equal(batch[:, 0], state.node):
            raise UserError(
                f"the streams stand at the nodes {state.node.tolist()}, so these must be the first "
                f"tokens; got {batch[:, 0].tolist()}: prepend the last token read"
            )
        return batch

    def _candidates(self, batch: Array, candidates: Array | None) -> Array | None:
        """Candidates (B, n, C), checked: the kernels trust them."""
        if candidates is None:
            return None
        chosen = np.asarray(candidates)
        shape = (batch.shape[0], batch.shape[1] - 1)
        if chosen.ndim != 3 or chosen.shape[:2] != shape or chosen.shape[2] == 0:
            raise UserError(f"candidates must have shape {(*shape, 'C')}; got {chosen.shape}")
        if not np.issubdtype(chosen.dtype, np.integer):
            raise UserError(f"candidates must be integers, got {chosen.dtype}")
        if chosen.min() < 0 or chosen.max() >= self.graph.n_nodes:
            raise UserError(f"candidates must lie in 0 … {self.graph.n_nodes - 1}")
        if not np.array_equal(chosen[..., 0], batch[:, 1:]):
            raise UserError("the first candidate of each position must be the true next token")
        return chosen.astype(np.int64)

    def _weights(self, batch: Array, weights: Array | None) -> Array | None:
        """Weights of the positions (B, n), checked."""
        if weights is None:
            return None
        found = np.asarray(weights, np.float64)
        shape = (batch.shape[0], batch.shape[1] - 1)
        if found.shape != shape or not (found.min() >= 0 and 0 < found.sum() < np.inf):
            raise UserError(
                f"weights must be {shape} numbers of at least 0, not all of them 0; got an array "
                f"{found.shape} from {found.min(initial=np.inf)} to {found.max(initial=-np.inf)}"
            )
        return found

    def path(self, tokens: Array, state: State | None = None) -> Path:
        """Send the signal along ``tokens`` (T,) or (B, T): `minibrillm.reference.path_forward`."""
        batch = self._continued(tokens, state)
        return self.operations.path_forward(self.parameters, self.graph, self.config, batch, state)

    def nll(
        self, tokens: Array, state: State | None = None, candidates: Array | None = None
    ) -> tuple[Array, State]:
        """−log p of every token after the first, in nats, and the memory after the last.

        Parameters
        ----------
        tokens : integer array (T,) or (B, T)
        state : State, optional
            Memory at ``tokens[:, 0]``; the next chunk of a stream starts with the last token of
            the one before.
        candidates : integer array (B, T-1, C), optional
            Targets in the softmax, the true one first; all V without it.

        Returns
        -------
        array (B, T - 1), State
        """
        batch = self._continued(tokens, state)
        candidates = self._candidates(batch, candidates)
        ops, parameters, graph, config = self.operations, self.parameters, self.graph, self.config
        path = ops.path_forward(parameters, graph, config, batch, state)
        found = ops.compete(
            parameters,
            graph,
            config,
            batch,
            path.incoming,
            path.first,
            candidates,
            gradient=False,
            log_prior=self._rows(batch[:, :-1], state),
        )
        return found.nll, path.final

    def loss(
        self, tokens: Array, candidates: Array | None = None, weights: Array | None = None
    ) -> float:
        """Mean −log p(next token), in nats per token (MODEL.md, eq. 10)."""
        weights = self._weights(self._batch(tokens), weights)
        return _mean(self.nll(tokens, candidates=candidates)[0], weights)

    def loss_and_gradients(
        self,
        tokens: Array,
        candidates: Array | None = None,
        weights: Array | None = None,
        rounding: Rounding | None = None,
        mask: Array | None = None,
        bigrams: KneserNey | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """The loss and its gradient with respect to every parameter, by name.

        Parameters
        ----------
        tokens : integer array (T,) or (B, T)
        candidates : integer array (B, T-1, C), optional
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
            Of the training text, order 2. With them, an n-gram prior counts as if the tokens it
            is to foretell had not been read: `tokens` must come from that text. Without a prior
            ``ngrams`` they have no effect.
        """
        batch, ops = self._batch(tokens), self.operations
        candidates, weights = self._candidates(batch, candidates), self._weights(batch, weights)
        graph, config = self.graph, self.config
        path = ops.path_forward(self.parameters, graph, config, batch)
        found = ops.compete(
            self.parameters,
            graph,
            config,
            batch,
            path.incoming if mask is None else path.incoming * mask[:, None],
            candidates=candidates,
            weights=weights,
            log_prior=self._rows(
                batch[:, :-1], withheld=Withheld(batch[:, 1:], bigrams) if bigrams else None
            ),
            rounding=rounding,
        )
        if mask is not None:
            found = found._replace(d_incoming=found.d_incoming * mask[:, None])
        gradients = ops.path_backward(self.parameters, graph, config, batch, path, found)
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
        if self.graph.prior is None:
            return np.zeros((*tokens.shape, self.graph.n_nodes))
        rows = np.array([self.graph.prior.row(int(u)) for u in tokens.ravel()])
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
        batch = self._batch(tokens, least=1)
        ops = self.operations
        if state is None:
            state, _ = ops.start_state(self.parameters, self.config, batch[:, 0])
        else:
            batch = np.concatenate([state.node[:, None], batch], axis=1)
        return state if batch.shape[1] == 1 else self.path(batch, state).final

    def next_logits(self, state: State) -> Array:
        """Energy + prior of every node as the next token, (V,) float64."""
        e = self.operations.energies(
            self.parameters,
            self.graph,
            self.config,
            state.node[:, None],
            state.incoming[:, None],
            state.position,
        )
        rows = self._rows(state.node[:, None], state)
        prior = self.prior(state.node) if rows is None else rows.log_prior[0]
        return e[0, 0].astype(np.float64) + prior[0]

    def stream(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | None = None,
    ) -> Iterator[str]:
        """Generate text piece by piece, the prompt not included; arguments as for `generate`."""
        if n_tokens < 1:
            raise UserError(f"n_tokens is {n_tokens}; expected at least 1")
        sampling = Sampling(temperature, top_k, top_p)
        rng = np.random.default_rng(seed)
        unknown = self.tokenizer.unknown_id
        stop_ids = () if stop is None else self._stop_ids(stop)
        ids = self.tokenizer.encode(prompt)
        drawn: list[int] = []
        if ids.size == 0:
            weights = self.graph.node_counts.astype(np.float64)
            shunned = [*stop_ids, *(() if unknown is None else (unknown,))]
            if weights.sum() > weights[shunned].sum():
                weights[shunned] = 0
            drawn = [int(rng.choice(len(weights), p=weights / weights.sum()))]
            ids = np.array(drawn)
        banned = () if unknown is None else (unknown,)

        def tokens() -> Iterator[int]:
            yield from drawn
            yield from generate(
                self, ids, n_tokens - len(drawn), sampling, rng, stop=stop_ids, banned=banned
            )

        yield from self.tokenizer.decode_stream(tokens())

    def generate(
        self,
        prompt: str = "",
        n_tokens: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | None = None,
    ) -> str:
        """Continue a prompt, in any language of the vocabulary.

        Parameters
        ----------
        prompt : str
            Empty: start at a node drawn from the unigram.
        n_tokens : int
            At most so many new tokens.
        temperature, top_k, top_p
            See `Sampling`; temperature 0 is greedy.
        seed : int, optional
            The same seed gives the same text.
        stop : str, optional
            A text of one token that ends the generation.

        Returns
        -------
        str: the prompt and what follows it
        """
        pieces = self.stream(
            prompt,
            n_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        return prompt + "".join(pieces)

    def _stop_ids(self, stop: str) -> tuple[int, ...]:
        ids = self.tokenizer.encode(stop)
        if len(ids) != 1 or int(ids[0]) == self.tokenizer.unknown_id:
            raise UserError(f"stop must be exactly one token of the vocabulary; got {stop!r}")
        return (int(ids[0]),)


def _mean(nll: Array, weights: Array | None) -> float:
    """Mean over the positions, each counted as much as its weight."""
    return float(np.average(nll.astype(np.float64), weights=weights))
