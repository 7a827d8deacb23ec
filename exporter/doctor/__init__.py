"""Looking whether all that rayslurm needs is as it should be, from what is nearest to what is farthest."""
