"""The loop over steps, against Keras's own."""

from __future__ import annotations

import keras
import numpy as np

from keras_unet.training.loop import Position, run_loop


def test_the_loop_is_that_of_fit():
    """Same batches, same weights and the same mean of the loss as Keras's own loop."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4, 3)).astype("f"), rng.normal(size=(6, 4, 2)).astype("f")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    found = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(inputs)))
        model.compile("adam", "mse")
        seen = []
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, seen=seen: seen.append(float(logs["loss"]))
        )
        if ours:

            class Two(keras.callbacks.Callback):
                def on_epoch_end(self, epoch, logs=None):
                    self.model.stop_training = epoch == 1

            run_loop(
                model,
                iter(batches),
                [log, Two()],
                steps_per_epoch=3,
                position=Position(),
                between_steps=lambda: None,
            )
        else:
            model.fit(
                batches, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, callbacks=[log]
            )
        found.append((seen, [w.tobytes() for w in model.get_weights()]))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2
