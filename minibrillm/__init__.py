"""minibrillm: BriLLM, the signal-flow language model, as a textbook that runs."""

__version__ = "0.1.0"
