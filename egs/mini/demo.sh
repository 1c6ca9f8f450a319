#!/usr/bin/env bash
# The whole path in a few minutes on a CPU: train a tokenizer from scratch on the embedded corpus, then tokenize an
# utterance with the shipped one and speak it in every voice that it knows. Results lie in demo/.
set -euo pipefail
cd "$(dirname "$0")/../.."
utterance=egs/mini/wav16/flite_slt/flite_slt_012.flac

echo "== 1. Train from scratch on egs/mini (two to four minutes on 2 cores) =="
accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
    recipes/train.py egs/mini/conf/mini.yaml --out demo/run

echo "== 2. Tokenize $utterance with the shipped tokenizer =="
vqaudio tokenize "$utterance" --out demo/tokens.jsonl

echo "== 3. Say it in every voice that the shipped tokenizer knows =="
vqaudio convert "$utterance" --speaker all --out demo/voices

echo "== 4. Look at it =="
python egs/mini/figure.py "$utterance" demo/tokens.jsonl demo/voices demo/figure.png
