"""Code shared by the stages: run execution, signals, backbone training, and feature sources."""
