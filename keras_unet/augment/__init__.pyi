from .augment import Augment as Augment
from .draws import sample_seeds as sample_seeds
from .field import grid_displacement as grid_displacement
from .resample import dense_warp as dense_warp
from .settings import PRESETS as PRESETS
from .settings import AugmentSettings as AugmentSettings
from .settings import make_settings as make_settings
from .settings import preset_settings as preset_settings
