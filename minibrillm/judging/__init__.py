"""How good is it: held-out losses, beside n-grams and other models, one change at a time."""

from minibrillm.judging.ablation import LADDER, Rung, ablate, rungs
from minibrillm.judging.comparison import CONTENDERS, check, compare
from minibrillm.judging.evaluation import Evaluation, Score, evaluate
from minibrillm.judging.results import Comparison, Contender, Curve, Row
from minibrillm.judging.tables import number, table
from minibrillm.judging.task import Parts, Task, three_parts

__all__ = [
    "CONTENDERS",
    "LADDER",
    "Comparison",
    "Contender",
    "Curve",
    "Evaluation",
    "Parts",
    "Row",
    "Rung",
    "Score",
    "Task",
    "ablate",
    "check",
    "compare",
    "evaluate",
    "number",
    "rungs",
    "table",
    "three_parts",
]
