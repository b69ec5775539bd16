"""The doctor of the executor plugin, under the name of its command in a checkout: `python -m cluster.doctor`."""
