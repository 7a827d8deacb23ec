#!/bin/bash
# bash container.sh COMMAND: runs it inside the container
fail() { echo "rayslurm: $1 on $(uname -n): $2" >&2 && exit 64; }
command -v singularity >/dev/null ||
  fail 'there is no singularity' 'load what brings it in environment, or write container.command in the spec'
[ -e '/work/physics/images/ray.sif' ] || fail 'there is no /work/physics/images/ray.sif' 'correct container.image in the spec'

options=(
  --rocm
  --env
  'GREETING=good day'
  --bind "/scratch/project_2001234/maija/rayslurm"
)
[[ $PWD/ == "/scratch/project_2001234/maija/rayslurm"/* ]] || options+=(--bind "$PWD")
exec singularity exec "${options[@]}" '/work/physics/images/ray.sif' "$@"
