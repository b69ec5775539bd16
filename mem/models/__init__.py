"""Backbones and masked autoencoders, built from timm modules."""
