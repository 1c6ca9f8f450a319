#!/usr/bin/env bash
# ViZDoom recipe: record episodes, train a VQ-VAE of the frames and a prior over their codes, evaluate and imagine clips.
#
#   egs/vizdoom/run.sh                                        all stages
#   egs/vizdoom/run.sh --conf egs/vizdoom/conf/cpu            small models for a CPU, in exp/vizdoom/cpu
#   egs/vizdoom/run.sh --scenario health_gathering --frames 50000    another environment, more frames
#   egs/vizdoom/run.sh --stage 2 --stop-stage 2 -- --fit.lr 1e-4     arguments after -- are passed to the recipes
#   egs/vizdoom/run.sh --stage 4 --episode 1 --first-frame 40        clips after another prompt: a test episode and a frame
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

stage=0 stop_stage=4
scenario=my_way_home
frames=30000
seed=0
data=data/vizdoom
out=
conf=$repository/egs/vizdoom/conf
episode=3
first_frame=14
options="scenario frames seed data out conf episode first-frame"
source "$repository/egs/stages.sh"
# by default the folder that the configurations name: exp/vizdoom for conf, exp/vizdoom/NAME for conf/NAME
name=$(basename "$conf")
if [ -z "$out" ]; then [ "$name" = conf ] && out=exp/vizdoom || out=exp/vizdoom/$name; fi

if runs 0; then
    echo "== Stage 0: record episodes of a random walk that avoids walls =="
    vqaudio prepare vizdoom --scenario "$scenario" --frames "$frames" --seed "$seed" --valid 0.1 --test 0.1 --out "$data" --overwrite
fi
if runs 1; then
    echo "== Stage 1: train the VQ-VAE of the frames =="
    launch train_image.py "$conf/frames.yaml" --data "$data" --out "$out/frames" "$@"
fi
if runs 2; then
    echo "== Stage 2: encode the frames and train the prior =="
    launch train_video.py "$conf/prior.yaml" --data "$data" --model "$out/frames" --out "$out/prior" "$@"
fi
if runs 3; then
    echo "== Stage 3: evaluate both on the test episodes =="
    vqaudio evaluate --model "$out/frames" --data "$data" --out "$out/report/frames" --overwrite
    vqaudio evaluate --model "$out/frames" --prior "$out/prior" --data "$data" --out "$out/report/prior" --overwrite
fi
if runs 4; then
    echo "== Stage 4: imagine clips beside what the game shows =="
    python "$repository/egs/vizdoom/compare.py" --prior "$out/prior" --model "$out/frames" --data "$data" --out "$out/clips" \
        --episode "$episode" --first-frame "$first_frame" --temperature 0.8 --actions forward*24 right*24 left*24 --every 3 --overwrite
fi
