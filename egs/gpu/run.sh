#!/usr/bin/env bash
# One GPU for a few minutes: tests, speed, a speech model, image models. Needs torch, accelerate, einops, safetensors,
# tqdm, pyyaml, numpy, scipy, librosa, soundfile, soxr, tyro, filelock, no installation of vqaudio and no network.
#
#   egs/gpu/run.sh --data DATA --out OUT --seconds 420                 all stages, each for at most 420 seconds
#   egs/gpu/run.sh --stage speech --stop-stage speech ...              one stage: test, bench, speech or images
#   egs/gpu/run.sh --tiny --device cpu ...                             tiny settings: does it run?
#   egs/gpu/run.sh --stage speech ... -- --crops.batch_size 128        arguments after -- are passed to the recipes
#
# A stage ends in time, and the same command continues it. DATA holds speech_opus/ (audio with manifests NAME.jsonl and
# valid.jsonl) and cifar10_lossless.npz. All is written below OUT; what is returned has at most 60 MB, beside OUT/work.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=3
stage_names="test bench speech images"
data=$repository/data
out=exp/gpu
seconds=420
device=auto
tiny=
options="data out seconds device"
flags="tiny"
source "$repository/egs/stages.sh"
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "--seconds must be a whole number above 0, got $seconds" >&2
    exit 2
fi

python=${PYTHON:-python}
mkdir -p "$out/work"
out=$(cd "$out" && pwd) # caches need an absolute path
work=$out/work
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
export PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=$work/cache/numba TRITON_CACHE_DIR=$work/cache/triton
export TORCHINDUCTOR_CACHE_DIR=$work/cache/inductor CUDA_CACHE_PATH=$work/cache/cuda XDG_CACHE_HOME=$work/cache
export HF_HUB_OFFLINE=1 HF_HOME=$work/cache/huggingface TMPDIR=$work/tmp
mkdir -p "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT

gpu=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
if [ "$device" = auto ]; then device=$gpu; fi
case $device in
    cuda) [ "$gpu" = cuda ] || { echo "--device cuda: PyTorch finds no GPU here" >&2; exit 2; } ;;
    cpu) export ACCELERATE_USE_CPU=true CUDA_VISIBLE_DEVICES= ;;
    *) echo "--device must be auto, cuda or cpu, got $device" >&2; exit 2 ;;
esac

if [ "$tiny" ]; then first=4; else first=100; fi
code=0 # of this script: 1 after failed tests, which do not keep the other stages from running
begin() { # NAME: a stage begins, and has $seconds
    echo "== Stage $1 ($device, $seconds seconds) =="
    deadline=$((SECONDS + seconds - seconds / 20)) # the rest is for saving and for results
}
left() { echo $((deadline - SECONDS)); }
timed() { # RECIPE CONF RUN BUDGET FLAGS...: trains for BUDGET seconds in all; exit code 3 if the time of the stage is over
    local budget=$4
    if [ "$tiny" ]; then budget=0.1; fi
    if [ "$(left)" -le 0 ]; then return 3; fi
    # a recipe that does not end a minute and a half after its deadline is killed; its last checkpoint remains
    timeout --foreground --signal=KILL $(($(left) + 90)) "$python" "$repository/egs/gpu/timed.py" "$repository/recipes/$1" "$2" \
        --out "$3" --budget "$budget" --first "$first" --deadline "$(left)" -- "${@:5}"
}
results() { "$python" "$repository/egs/gpu/results.py" "$@"; }
ended() { # NAME CODE: of a stage that trains
    case $2 in
        0) echo "stage $1 is finished" ;;
        3) echo "the time of stage $1 is over; the same command continues it" ;;
        *) echo "stage $1 failed with exit code $2" >&2; exit "$2" ;;
    esac
}

if runs 0; then
    begin test
    if "$python" -c 'import pytest' 2> /dev/null; then
        mapfile -t files < <(grep -rl "pytest.mark.gpu" "$repository/tests" --include="test_*.py" | sort)
        timeout --foreground --kill-after=30 "$(left)" "$python" -m pytest -m gpu -rs -p no:cacheprovider \
            --rootdir "$repository" -c "$repository/pyproject.toml" "${files[@]}" 2>&1 | tee "$out/test.txt" || code=1
    else
        echo "stage test is left out: pytest is not installed" | tee "$out/test.txt"
    fi
fi
if runs 1; then
    begin bench
    "$python" "$repository/egs/gpu/bench.py" --out "$out" --seconds "$(left)" --device "$device" ${tiny:+--tiny} \
        || { found=$?; [ $found = 3 ] || exit $found; echo "the same command continues it"; }
fi

# Stage speech: codes, then spectrum and pitch from codes, then two vocoders. A slice is as long as its budget, in
# seconds of training.
slice() { # NAME CONF BUDGET FLAGS...
    local small=()
    if [ "$tiny" ]; then
        small=(--crops.samples 12000 --crops.batch_size 2 --validation.samples 12000 --validation.batch_size 2)
        small+=(--validation.num_batches 1 --model.encoder.channels 16 --model.context.channels 16)
        small+=(--model.decoder.layers 2 --model.decoder.layers_per_stack 2 --fit.codebook_init_batches 1)
    fi
    timed train.py "$repository/egs/vctk/conf/gpu/$2" "$work/speech/$1" "$3" --train "$work/speech/audio/train.jsonl" \
        --valid "$work/speech/audio/valid.jsonl" "${@:4}" "${small[@]}" "${recipe_flags[@]}"
}
speech() {
    local istft=() wavenet=()
    if [ "$tiny" ]; then
        istft=(--model.istft.channels 16) wavenet=(--model.istft.channels 16 --model.acoustic.channels 16)
    fi
    "$python" "$repository/egs/gpu/decode.py" "$data/speech_opus" --out "$work/speech/audio" || return
    slice codes codes.yaml 120 || return
    slice context context.yaml 120 --init-from "$work/speech/codes" || return
    slice istft istft.yaml 240 --init-from "$work/speech/context" "${istft[@]}" || return
    slice wavenet wavenet.yaml 420 --init-from "$work/speech/istft" "${wavenet[@]}"
}
recipe_flags=("$@")
if runs 2; then
    begin speech
    found=0
    speech || found=$?
    if [ $found = 0 ] || [ $found = 3 ]; then results speech "$out" --device "$device"; fi
    ended speech $found
fi

# Stage images: three models of the paper's sizes with the same seconds of training each, then a prior over the VQ-VAE's codes.
image() { # RECIPE NAME BUDGET FLAGS...
    local small=()
    if [ "$tiny" ] && [ "$2" = prior ]; then
        small=(--image.net.channels 4 --image.net.layers 1 --image.net.head_channels 4 --batches.batch_size 2)
    elif [ "$tiny" ]; then
        small=(--model.coder.channels 4 --model.coder.num_maps 1 --model.coder.dim 2 --model.coder.num_mixtures 1)
        small+=(--model.quantizer.codebook_size 8 --model.quantizer.dim 2 --model.vimco_samples 2 --crops.batch_size 2)
    fi
    timed "$1" "$repository/egs/cifar10/conf/gpu/$2.yaml" "$work/images/$2" "$3" --data "$work/images/data" "${@:4}" \
        "${small[@]}" "${recipe_flags[@]}"
}
images() {
    if [ ! -d "$work/images/data/test" ]; then
        "$python" -m vqaudio prepare cifar10 "$data/cifar10_lossless.npz" --out "$work/images/data" || return
    fi
    for kind in vqvae vae vimco; do
        image train_image.py $kind 180 || return
    done
    image train_prior.py prior 120 --model "$work/images/vqvae"
}
if runs 3; then
    begin images
    found=0
    images || found=$?
    if [ $found = 0 ] || [ $found = 3 ]; then results images "$out" --device "$device"; fi
    ended images $found
fi
results check "$out"
exit $code
