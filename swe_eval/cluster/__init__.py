"""Sweeps on a cluster: SLURM's launcher, the time that a job has, what a sweep leaves."""
