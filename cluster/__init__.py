"""Cluster tools: the Snakemake executor plugin, the doctor (site checks), and the throwaway SLURM cluster."""
