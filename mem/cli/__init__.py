"""The command line: argument parsing only. Commands import what they need when they run."""
