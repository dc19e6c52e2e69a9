"""The models that come with the package, one file each, and their catalogue."""
