from .config import TrainConfig as TrainConfig
from .config import load_config as load_config
from .cross_validation import cross_validate as cross_validate
from .planning.plan import Plan as Plan
from .planning.plan import plan as plan
from .run import TrainResult as TrainResult
from .run import train as train
