"""Text to node ids and back: a token *is* a node, so the vocabulary lists the graph's nodes."""

from minibrillm.text.tokenizers.base import Tokenizer
from minibrillm.text.tokenizers.bpe import BPETokenizer
from minibrillm.text.tokenizers.characters import CharacterTokenizer
from minibrillm.text.tokenizers.foreign import HuggingFaceTokenizer, VocabularyTokenizer
from minibrillm.text.tokenizers.kinds import tokenizer_from_json, train_tokenizer

__all__ = [
    "BPETokenizer",
    "CharacterTokenizer",
    "HuggingFaceTokenizer",
    "Tokenizer",
    "VocabularyTokenizer",
    "tokenizer_from_json",
    "train_tokenizer",
]
