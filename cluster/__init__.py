"""What runs the workflow on a cluster: the Snakemake executor plugin, the doctor of a site, a throw-away SLURM."""
