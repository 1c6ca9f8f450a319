#!/usr/bin/env bash
# LibriSpeech recipe: tokenizer, prior over its codes, bitrate, compression, and samples from the prior (stages 0 to 6);
# the paper's phoneme experiment (stages 7 and 8).
#
#   egs/librispeech/run.sh                                    all stages, starting with the 6 GB download of train-clean-100
#   egs/librispeech/run.sh --stage 1 --data PATH/TO/LibriSpeech   with an existing corpus
#   egs/librispeech/run.sh --stage 7 --phones-conf egs/librispeech/conf/phones640_mel.yaml    filterbank in place of waveform
#   egs/librispeech/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4    arguments after -- are passed to the recipe
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=8
data=data/LibriSpeech
conf=$repository/egs/librispeech/conf/prior128.yaml
prior=$repository/egs/librispeech/conf/prior.yaml
manifests=data/librispeech
out=exp/librispeech
phones_conf=$repository/egs/librispeech/conf/phones640.yaml
phones_out=exp/librispeech/phones640
options="data conf prior manifests out phones-conf phones-out"
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
if runs 7; then
    echo "== Stage 7: train the tokenizer of the phoneme experiment =="
    launch train.py "$phones_conf" --out "$phones_out" \
        --train "$manifests/train.jsonl" --valid "$manifests/valid.jsonl" "$@"
fi
if runs 8; then
    echo "== Stage 8: align the test set with its texts; which phone does a code predict? =="
    vqaudio align "$manifests/test.jsonl" --out "$phones_out/phones.tsv" --threads "$(nproc)" --overwrite || [ $? = 1 ]
    vqaudio evaluate --model "$phones_out" --data "$manifests" --phones "$phones_out/phones.tsv" \
        --only phones codebook_usage --max-utterances 100000 --no-html --out "$phones_out/report" --overwrite
fi
