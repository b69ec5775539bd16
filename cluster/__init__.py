"""Tools for clusters: the Snakemake executor plugin, the doctor, which checks a site, and a throwaway SLURM."""
