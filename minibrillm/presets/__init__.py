"""Settings by name, settings that suit a text, and those of the demo."""

from minibrillm.presets.demo import DEMO, Demo, for_demo
from minibrillm.presets.fitted import MANY_NODES, ROUND_BELOW, for_text, for_vocabulary

__all__ = ["DEMO", "MANY_NODES", "ROUND_BELOW", "Demo", "for_demo", "for_text", "for_vocabulary"]
