"""Objects from masks: found, measured, outlined, written for other programs."""
