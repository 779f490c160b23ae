"""Settings by name, and settings that suit a text."""

from minibrillm.presets.fitted import MANY_NODES, ROUND_BELOW, for_text, for_vocabulary

__all__ = ["MANY_NODES", "ROUND_BELOW", "for_text", "for_vocabulary"]
