"""What stages share: the life of a run, signals, backbone training, features computed online or read from files."""
