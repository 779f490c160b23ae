"""Texts whose least possible loss is known: how close does a model come?"""

from minibrillm.text.known_answers.grammar import AGREEMENT, Grammar, Rules
from minibrillm.text.known_answers.markov_chain import MarkovChain

__all__ = ["AGREEMENT", "Grammar", "MarkovChain", "Rules"]
