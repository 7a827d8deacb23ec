"""The practice site: a made-up supercomputer on this machine, to try rayslurm on without an account.

An independent witness: it takes nothing from rayslurm's parsers, billing or site files, and knows what is true of its
jobs. `rates` and `prints` use nothing but the standard library; the lab's login node has copies of them.
"""
