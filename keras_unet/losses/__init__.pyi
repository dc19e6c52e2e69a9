from .cross_entropy import Focal as Focal
from .cross_entropy import WeightedCrossEntropy as WeightedCrossEntropy
from .dice import Dice as Dice
from .sum import Sum as Sum
from .table import LOSSES as LOSSES
