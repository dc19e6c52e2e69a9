"""Distributed training: several devices and machines train one network."""
