#!/usr/bin/env bash
# Demo on a CPU in a few minutes: train a tokenizer from scratch on the embedded corpus, then tokenize an utterance with the
# shipped model and convert it to all of its speakers. Results are written to demo/.
set -euo pipefail
cd "$(dirname "$0")/../.."
utterance=egs/mini/wav16/flite_slt/flite_slt_012.flac

echo "== 1. Train from scratch on egs/mini (two to four minutes on 2 cores) =="
accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
    recipes/train.py egs/mini/conf/mini.yaml --out demo/run

echo "== 2. Tokenize $utterance with the shipped model =="
vqaudio tokenize "$utterance" --out demo/tokens.jsonl

echo "== 3. Convert it to all speakers of the shipped model =="
vqaudio convert "$utterance" --speaker all --out demo/converted

echo "== 4. Plot the result =="
python egs/mini/figure.py "$utterance" demo/tokens.jsonl demo/converted demo/figure.png
