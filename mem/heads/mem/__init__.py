"""Mutual exclusive modulator: the paper's section 3, one file per part. docs/explanation/mem.md says what the paper leaves open."""
