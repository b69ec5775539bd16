"""Backbones and masked autoencoders, on timm's modules."""
