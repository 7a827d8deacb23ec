#!/bin/bash
# bash container.sh COMMAND: runs it inside the container
fail() { echo "rayslurm: $1 on $(uname -n): $2" >&2 && exit 64; }
command -v singularity_wrapper >/dev/null ||
  fail 'there is no singularity_wrapper' 'load what brings it in environment, or write container.command in the spec'

options=(
  --nv
  --bind "/scratch/project_2001234/maija/rayslurm"
)
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
exec singularity_wrapper exec "${options[@]}" "$@"
