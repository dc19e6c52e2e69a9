"""Entry point: `python -m keras_unet` is `keras-unet`."""

from keras_unet.cli import main

if __name__ == "__main__":
    main()
