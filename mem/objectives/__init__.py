"""Objectives of finetuning: losses that may depend on the numbers of training images per class."""
