#!/bin/bash
# bash container.sh COMMAND: runs it inside the container
fail() { echo "rayslurm: $1 on $(uname -n): $2" >&2 && exit 64; }
command -v apptainer >/dev/null ||
  fail 'there is no apptainer' 'load what brings it in environment, or write container.command in the spec'
[ -e '/projappl/project_2001234/ray-2.60.sif' ] || fail 'there is no /projappl/project_2001234/ray-2.60.sif' 'correct container.image in the spec'

options=(
  --nv
  --bind '/scratch/project_2001234/data:/data:ro'
  --bind "/scratch/project_2001234/maija/rayslurm"
  --bind "$TMPDIR"
)
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
exec apptainer exec "${options[@]}" '/projappl/project_2001234/ray-2.60.sif' "$@"
