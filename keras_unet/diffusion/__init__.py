"""The U-Net that generates: latent diffusion (Rombach et al. 2022) in Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {
    "Autoencoder": "autoencoder",
    "DDIM": "samplers",
    "DDPM": "samplers",
    "DPMSolver": "samplers",
    "DiffusionConfig": "config",
    "DiffusionModel": "model",
    "DiffusionUNet": "unet",
    "Euler": "samplers",
    "NoiseSchedule": "noise",
    "PNDM": "samplers",
    "PRESETS": "presets",
    "SAMPLERS": "samplers",
    "TextEncoder": "text",
    "TextToImage": "text_to_image",
    "Tokenizer": "text",
    "build_autoencoder": "autoencoder",
    "build_diffusion_unet": "unet",
    "build_text_encoder": "text",
    "count_parameters": "diffusers_files",
    "guide": "model",
    "kl_divergence": "autoencoder",
    "load_diffusers": "diffusers_files",
    "load_diffusion": "synthesis",
    "save_diffusers": "diffusers_files",
    "synthesize": "synthesis",
    "train_diffusion": "training",
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.diffusion.autoencoder import Autoencoder as Autoencoder
    from keras_unet.diffusion.autoencoder import build_autoencoder as build_autoencoder
    from keras_unet.diffusion.autoencoder import kl_divergence as kl_divergence
    from keras_unet.diffusion.config import DiffusionConfig as DiffusionConfig
    from keras_unet.diffusion.diffusers_files import count_parameters as count_parameters
    from keras_unet.diffusion.diffusers_files import load_diffusers as load_diffusers
    from keras_unet.diffusion.diffusers_files import save_diffusers as save_diffusers
    from keras_unet.diffusion.model import DiffusionModel as DiffusionModel
    from keras_unet.diffusion.model import guide as guide
    from keras_unet.diffusion.noise import NoiseSchedule as NoiseSchedule
    from keras_unet.diffusion.presets import PRESETS as PRESETS
    from keras_unet.diffusion.samplers import DDIM as DDIM
    from keras_unet.diffusion.samplers import DDPM as DDPM
    from keras_unet.diffusion.samplers import PNDM as PNDM
    from keras_unet.diffusion.samplers import SAMPLERS as SAMPLERS
    from keras_unet.diffusion.samplers import DPMSolver as DPMSolver
    from keras_unet.diffusion.samplers import Euler as Euler
    from keras_unet.diffusion.synthesis import load_diffusion as load_diffusion
    from keras_unet.diffusion.synthesis import synthesize as synthesize
    from keras_unet.diffusion.text import TextEncoder as TextEncoder
    from keras_unet.diffusion.text import Tokenizer as Tokenizer
    from keras_unet.diffusion.text import build_text_encoder as build_text_encoder
    from keras_unet.diffusion.text_to_image import TextToImage as TextToImage
    from keras_unet.diffusion.training import train_diffusion as train_diffusion
    from keras_unet.diffusion.unet import DiffusionUNet as DiffusionUNet
    from keras_unet.diffusion.unet import build_diffusion_unet as build_diffusion_unet
