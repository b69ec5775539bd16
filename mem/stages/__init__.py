"""The stages: each one rule, one command, one function here, one kind of run folder. Wiring, no arithmetic."""
