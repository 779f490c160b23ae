"""Text to learn from, and tokens: files, splits, pieces, downloads, known answers, windows."""

from minibrillm.text.corpora import Corpus, as_document, join_documents, read_corpus
from minibrillm.text.downloads import DOWNLOADS, Download, fetch_corpus
from minibrillm.text.encodings import decode_text
from minibrillm.text.files import read_text
from minibrillm.text.known_answers import AGREEMENT, Grammar, MarkovChain, Rules
from minibrillm.text.names import BUNDLED, corpus_path, locate
from minibrillm.text.pieces import LANGUAGES, Piece, bundled, bundled_path, bundled_pieces
from minibrillm.text.records import SPLITS
from minibrillm.text.repeats import longest_run
from minibrillm.text.sources import documents_of
from minibrillm.text.splits import Split, split_corpus
from minibrillm.text.stops import nodes_holding, until
from minibrillm.text.tokenizers import (
    BPETokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    VocabularyTokenizer,
    tokenizer_from_json,
    train_tokenizer,
)
from minibrillm.text.windows import Batch, Windows

__all__ = [
    "AGREEMENT",
    "BUNDLED",
    "DOWNLOADS",
    "LANGUAGES",
    "SPLITS",
    "BPETokenizer",
    "Batch",
    "CharacterTokenizer",
    "Corpus",
    "Download",
    "Grammar",
    "HuggingFaceTokenizer",
    "MarkovChain",
    "Piece",
    "Rules",
    "Split",
    "Tokenizer",
    "VocabularyTokenizer",
    "Windows",
    "as_document",
    "bundled",
    "bundled_path",
    "bundled_pieces",
    "corpus_path",
    "decode_text",
    "documents_of",
    "fetch_corpus",
    "join_documents",
    "locate",
    "longest_run",
    "nodes_holding",
    "read_corpus",
    "read_text",
    "split_corpus",
    "tokenizer_from_json",
    "train_tokenizer",
    "until",
]
