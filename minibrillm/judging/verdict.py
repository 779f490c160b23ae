"""The last line of an evaluation: which is ahead, by how much, and what would help."""

from __future__ import annotations

import math
from collections.abc import Mapping

from minibrillm.checks import remedy
from minibrillm.config import ModelConfig
from minibrillm.judging.tables import number

_LEVEL = 0.001  # nats per token: closer than this, nobody is ahead


def worse_than_guessing(losses: Mapping[str, float], n_nodes: int, config: ModelConfig) -> str:
    """What is wrong with a model that costs more than all nodes alike would, and the cure.

    Parameters
    ----------
    losses : mapping
        Nats per token by reading ("BriLLM, one stream"); the worst of them is judged.
    n_nodes : int
        V.
    config : ModelConfig

    Returns
    -------
    str: empty where the model is no worse than that (a nat per token is allowed for)
    """
    reading, worst = max(losses.items(), key=lambda item: item[1])
    blind = math.log(n_nodes)
    if worst <= blind + 1:
        return ""
    if worst < math.inf:
        found = f"{number(worst)} nats per token are more than"
    else:
        found = "the signal grew past the largest number: the loss is infinite,"
    return f"{reading}: {found} guessing blindly costs (log V = {blind:.4f}); {remedy(config)}"


def who_is_ahead(
    ours: float,
    counted: float,
    order: int,
    n_tokens: int,
    n_parameters: int,
    kept: tuple[int, int] | None,
) -> str:
    """One sentence: which is ahead, by how much, and why if counting is.

    Parameters
    ----------
    ours, counted : float
        Nats per token of BriLLM in its best reading, and of the best n-gram.
    order : int
        n of that n-gram.
    n_tokens, n_parameters : int
        Of the training text, and of BriLLM.
    kept : (int, int) or None
        The step whose weights BriLLM has, and the last step of its training.
    """
    lead = counted - ours
    if abs(lead) < _LEVEL:
        return f"BriLLM and the best n-gram ({order}-gram) are level: {lead:+.4f} nats per token."
    if lead > 0:
        return f"BriLLM is ahead of the best n-gram ({order}-gram) by {lead:.4f} nats per token."
    why = ""
    if kept is not None and kept[0] == kept[1]:
        why = ": BriLLM was still learning in its last step, so give it more minutes or steps"
    elif kept is not None:
        why = (
            f": after step {kept[0]} of {kept[1]} BriLLM only learned the training text by heart, "
            f"{n_tokens:,} tokens for {n_parameters:,} parameters; more text would help most"
        )
    return f"Counting wins: the {order}-gram is ahead of BriLLM by {-lead:.4f} nats per token{why}."
