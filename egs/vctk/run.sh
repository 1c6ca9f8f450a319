#!/usr/bin/env bash
# VCTK from the download to a converted voice.
#
#   egs/vctk/run.sh                                           everything, from the 11 GB download on
#   egs/vctk/run.sh --stage 1 --data PATH/TO/VCTK             a corpus that is already there (0.80, 0.92 or wav16)
#   egs/vctk/run.sh --conf egs/vctk/conf/paper.yaml           the paper's model
#   egs/vctk/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4 what follows -- goes to the recipe
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=4
data=data/VCTK-Corpus-0.92
conf=$repository/egs/vctk/conf/base.yaml
manifests=data/vctk
out=exp/vctk
speaker=p226

usage() { sed -n '2,8p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    [ "$1" = -- ] && { shift; break; }
    [ $# -ge 2 ] || usage
    case "$1" in
        --stage) stage=$2 ;;
        --stop-stage) stop_stage=$2 ;;
        --data) data=$2 ;;
        --conf) conf=$2 ;;
        --manifests) manifests=$2 ;;
        --out) out=$2 ;;
        --speaker) speaker=$2 ;;
        *) echo "unknown option $1" >&2; usage ;;
    esac
    shift 2
done
if ! [[ $stage =~ ^[0-4]$ && $stop_stage =~ ^[0-4]$ && $stage -le $stop_stage ]]; then
    echo "stages are 0 to 4, the first no later than the last; got --stage $stage --stop-stage $stop_stage" >&2
    exit 2
fi
runs() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }

if runs 0; then
    echo "== Stage 0: download VCTK 0.92 =="
    if [ "$(basename "$data")" != VCTK-Corpus-0.92 ]; then
        echo "stage 0 makes a folder VCTK-Corpus-0.92; to use $data as it is, begin with --stage 1" >&2
        exit 2
    fi
    python "$repository/egs/vctk/download.py" "$(dirname "$data")"
fi
if runs 1; then
    echo "== Stage 1: find the utterances, split them by utterance =="
    vqaudio prepare vctk "$data" --out "$manifests" --overwrite
fi
if runs 2; then
    echo "== Stage 2: train =="
    accelerate launch "$repository/recipes/train.py" "$conf" --out "$out" \
        --train "$manifests/train.jsonl" --valid "$manifests/valid.jsonl" "$@"
fi
if runs 3; then
    echo "== Stage 3: tokenize everything =="
    vqaudio tokenize "$manifests"/{train,valid,test}.jsonl --model "$out" --out "$out/tokens.jsonl" --overwrite
fi
if runs 4; then
    echo "== Stage 4: say the test utterances in the voice of $speaker =="
    head -n 4 "$manifests/test.jsonl" > "$manifests/few.jsonl"
    vqaudio convert "$manifests/few.jsonl" --model "$out" --speaker "$speaker" --out "$out/converted" --overwrite
fi
