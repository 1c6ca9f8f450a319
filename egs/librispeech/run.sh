#!/usr/bin/env bash
# LibriSpeech recipe: tokenizer, prior over its codes, bitrate, compression, and samples from the prior.
#
#   egs/librispeech/run.sh                                    all stages, starting with the 6 GB download of train-clean-100
#   egs/librispeech/run.sh --stage 1 --data PATH/TO/LibriSpeech   with an existing corpus
#   egs/librispeech/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4    arguments after -- are passed to the recipe
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=6
data=data/LibriSpeech
conf=$repository/egs/librispeech/conf/prior128.yaml
prior=$repository/egs/librispeech/conf/prior.yaml
manifests=data/librispeech
out=exp/librispeech
options="data conf prior manifests out"
source "$repository/egs/stages.sh"

if runs 0; then
    echo "== Stage 0: download train-clean-100 =="
    if [ "$(basename "$data")" != LibriSpeech ]; then
        echo "stage 0 creates a folder LibriSpeech; to use the existing folder $data, start with --stage 1" >&2
        exit 2
    fi
    python "$repository/egs/librispeech/download.py" "$(dirname "$data")"
fi
if runs 1; then
    echo "== Stage 1: prepare manifests =="
    vqaudio prepare librispeech "$data" --out "$manifests" --overwrite
fi
if runs 2; then
    echo "== Stage 2: train the tokenizer =="
    launch train.py "$conf" --out "$out" \
        --train "$manifests/train.jsonl" --valid "$manifests/valid.jsonl" "$@"
fi
if runs 3; then
    echo "== Stage 3: tokenize the corpus and train a prior =="
    mkdir -p "$out/tokens"
    for part in train valid; do
        vqaudio tokenize "$manifests/$part.jsonl" --model "$out" --out "$out/tokens/$part.jsonl" --overwrite
    done
    launch train_prior.py "$prior" --model "$out" --out "$out/prior" \
        --tokens "$out/tokens/train.jsonl" --valid-tokens "$out/tokens/valid.jsonl" "$@"
fi
if runs 4; then
    echo "== Stage 4: evaluate the bitrate of the test set =="
    vqaudio evaluate --model "$out" --prior "$out/prior" --train-tokens "$out/tokens/train.jsonl" \
        --data "$manifests" --only conditioning_gap bitrate --no-html --out "$out/report" --overwrite
fi
if runs 5; then
    echo "== Stage 5: compress and decompress the tokens of the test set =="
    vqaudio tokenize "$manifests/test.jsonl" --model "$out" --out "$out/test.jsonl" --overwrite
    vqaudio pack "$out/test.jsonl" --prior "$out/prior" --out "$out/test.vqa" --overwrite
    vqaudio unpack "$out/test.vqa" --prior "$out/prior" --out "$out/unpacked.jsonl" --overwrite
    cmp "$out/test.jsonl" "$out/unpacked.jsonl"
fi
if runs 6; then
    echo "== Stage 6: sample from the prior =="
    speaker=$(head -n 1 "$manifests/test.jsonl" | python -c 'import json; print(json.loads(input())["speaker"])')
    vqaudio sample --prior "$out/prior" --model "$out" --speaker "$speaker" --out "$out/samples" --overwrite
fi
