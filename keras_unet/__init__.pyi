from . import augment as augment
from . import data as data
from . import diffusion as diffusion
from . import evaluation as evaluation
from . import explorer as explorer
from . import geometry as geometry
from . import inference as inference
from . import losses as losses
from . import metrics as metrics
from . import models as models
from . import serving as serving
from . import training as training
from .evaluation.comparison import compare as compare
from .evaluation.scoring import evaluate as evaluate
from .explorer.server import explore as explore
from .inference.predictor import predict as predict
from .models.keras_file import load_model as load_model
from .models.keras_file import save_model as save_model
from .models.plot import plot_unet as plot_unet
from .models.unet import build_unet as build_unet
from .serving.formats import convert as convert
from .serving.publish import export as export
from .training.cross_validation import cross_validate as cross_validate
from .training.planning.plan import plan as plan
from .training.run import train as train
from .weight_maps import weight_map as weight_map

__version__: str
