"""Tuners: layers that are added to a pretrained network, and the choice of the parameters that train.

The modules of this package change networks. They do not import the backbones, which use them
(`mem.models.backbones.tuned`). To add a tuner, see docs/architecture.md.
"""
