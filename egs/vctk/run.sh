#!/usr/bin/env bash
# VCTK recipe: tokenizer, tokens, voice conversion, prior, bitrate, compression, and samples from the prior.
#
#   egs/vctk/run.sh                                           all stages, starting with the 11 GB download
#   egs/vctk/run.sh --stage 1 --data PATH/TO/VCTK             with an existing corpus (0.80, 0.92 or wav16)
#   egs/vctk/run.sh --conf egs/vctk/conf/paper.yaml           the paper's model
#   egs/vctk/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4 arguments after -- are passed to the recipe
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=7
data=data/VCTK-Corpus-0.92
conf=$repository/egs/vctk/conf/base.yaml
prior=$repository/egs/vctk/conf/prior.yaml
manifests=data/vctk
out=exp/vctk
speaker=p226
options="data conf prior manifests out speaker"
source "$repository/egs/stages.sh"

if runs 0; then
    echo "== Stage 0: download VCTK 0.92 =="
    if [ "$(basename "$data")" != VCTK-Corpus-0.92 ]; then
        echo "stage 0 creates a folder VCTK-Corpus-0.92; to use the existing folder $data, start with --stage 1" >&2
        exit 2
    fi
    python "$repository/egs/vctk/download.py" "$(dirname "$data")"
fi
if runs 1; then
    echo "== Stage 1: prepare manifests =="
    vqaudio prepare vctk "$data" --out "$manifests" --overwrite
fi
if runs 2; then
    echo "== Stage 2: train the tokenizer =="
    launch train.py "$conf" --out "$out" \
        --train "$manifests/train.jsonl" --valid "$manifests/valid.jsonl" "$@"
fi
if runs 3; then
    echo "== Stage 3: tokenize the corpus =="
    mkdir -p "$out/tokens"
    for part in train valid test; do
        vqaudio tokenize "$manifests/$part.jsonl" --model "$out" --out "$out/tokens/$part.jsonl" --overwrite
    done
fi
if runs 4; then
    echo "== Stage 4: voice conversion of test utterances to $speaker =="
    head -n 4 "$manifests/test.jsonl" > "$manifests/few.jsonl"
    vqaudio convert "$manifests/few.jsonl" --model "$out" --speaker "$speaker" --out "$out/converted" --overwrite
fi
if runs 5; then
    echo "== Stage 5: train a prior and evaluate the bitrate =="
    launch train_prior.py "$prior" --model "$out" --out "$out/prior" \
        --tokens "$out/tokens/train.jsonl" --valid-tokens "$out/tokens/valid.jsonl" "$@"
    vqaudio evaluate --model "$out" --prior "$out/prior" --train-tokens "$out/tokens/train.jsonl" \
        --data "$manifests" --only conditioning_gap bitrate --no-html --out "$out/report" --overwrite
fi
if runs 6; then
    echo "== Stage 6: compress and decompress the training tokens =="
    vqaudio pack "$out/tokens/train.jsonl" --prior "$out/prior" --out "$out/tokens.vqa" --overwrite
    vqaudio unpack "$out/tokens.vqa" --prior "$out/prior" --out "$out/unpacked.jsonl" --overwrite
    cmp "$out/tokens/train.jsonl" "$out/unpacked.jsonl"
fi
if runs 7; then
    echo "== Stage 7: sample from the prior with speaker $speaker =="
    vqaudio sample --prior "$out/prior" --model "$out" --speaker "$speaker" --out "$out/samples" --overwrite
fi
