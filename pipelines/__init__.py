"""A TFX pipeline around keras_unet: from raw images to a validated version in saved_models/."""
