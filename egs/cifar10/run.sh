#!/usr/bin/env bash
# CIFAR-10 recipe: VQ-VAE, baselines, PixelCNN prior, hierarchical models, evaluation and samples.
#
#   egs/cifar10/run.sh                                        all stages, starting with the 170 MB download
#   egs/cifar10/run.sh --stage 1 --data PATH                  with an existing archive or .npz file
#   egs/cifar10/run.sh --conf egs/cifar10/conf/cpu            small models for a CPU instead of the paper's sizes
#   egs/cifar10/run.sh --baselines "vae"                      fewer baselines than vae, vimco and gumbel
#   egs/cifar10/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4    arguments after -- are passed to the recipes
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=6
data=data/cifar-10-binary.tar.gz
packed=data/cifar10
out=exp/cifar10
conf=$repository/egs/cifar10/conf
baselines="vae vimco gumbel"
options="data packed out conf baselines"
source "$repository/egs/stages.sh"
train() { launch "$1" "$2" --data "$packed" "${@:3}"; }

if runs 0; then
    echo "== Stage 0: download CIFAR-10 =="
    python "$repository/egs/cifar10/download.py" "$(dirname "$data")"
fi
if runs 1; then
    echo "== Stage 1: prepare the data =="
    vqaudio prepare cifar10 "$data" --out "$packed" --overwrite
fi
if runs 2; then
    echo "== Stage 2: train the VQ-VAE =="
    train train_image.py "$conf/vqvae.yaml" --out "$out/vqvae" "$@"
fi
if runs 3; then
    echo "== Stage 3: train the baselines ($baselines) =="
    for kind in $baselines; do
        train train_image.py "$conf/vqvae.yaml" --kind "$kind" --out "$out/$kind" "$@"
    done
fi
if runs 4; then
    echo "== Stage 4: encode the images and train a prior =="
    train train_prior.py "$conf/prior.yaml" --model "$out/vqvae" --out "$out/prior" "$@"
fi
if runs 5; then
    echo "== Stage 5: train hierarchical models with discrete and with continuous latents =="
    train train_prior.py "$conf/hierarchical.yaml" --kind vqvae --model "$out/vqvae" --out "$out/hierarchical" "$@"
    train train_prior.py "$conf/hierarchical.yaml" --kind vae --model "$out/vqvae" --out "$out/hierarchical-vae" "$@"
fi
if runs 6; then
    echo "== Stage 6: evaluate on the test images and draw samples =="
    vqaudio evaluate --model "$out/vqvae" --prior "$out/prior" --data "$packed" --out "$out/report/vqvae" --overwrite
    for kind in $baselines; do
        vqaudio evaluate --model "$out/$kind" --data "$packed" --out "$out/report/$kind" --overwrite
    done
    vqaudio evaluate --model "$out/hierarchical" --data "$packed" --bottom-model "$out/vqvae" --out "$out/report/hierarchical" --overwrite
    vqaudio evaluate --model "$out/hierarchical-vae" --data "$packed" --bottom-model "$out/vqvae" --out "$out/report/hierarchical-vae" --overwrite
    vqaudio sample --prior "$out/prior" --model "$out/vqvae" --count 4 --out "$out/samples" --overwrite
fi
