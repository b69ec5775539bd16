"""Code shared by the stages: execution of a run, signals, training of backbones, sources of features."""
