"""Planning of a run: settings for a data set and a machine, each with its reason."""
