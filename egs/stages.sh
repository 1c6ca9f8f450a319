# Argument parsing of every run.sh. To be sourced with these variables set:
#   stage=0 stop_stage=7     first and last stage; changed by --stage and --stop-stage
#   options="data out"       further variables that can be set by flags: --data and --out
#   repository=PATH          root of the checkout
#   flags="tiny"             variables that a flag without a value sets to true (optional)
#   stage_names="test bench" names by which --stage and --stop-stage can be given as well as by number (optional)
# Arguments after -- are left in "$@".
last_stage=$stop_stage
flags=${flags:-}

usage() { sed -n '2,/^[^#]/{/^#/p}' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    [ "$1" = -- ] && { shift; break; }
    name=${1#--}
    if [ "$1" != "$name" ] && [[ " $flags " == *" $name "* ]]; then
        printf -v "${name//-/_}" true
        shift
        continue
    fi
    [ $# -ge 2 ] || usage
    if [ "$1" = "$name" ] || [[ " stage stop-stage $options " != *" $name "* ]]; then
        echo "unknown option $1" >&2
        usage
    fi
    printf -v "${name//-/_}" %s "$2"
    shift 2
done
number=0
for name in ${stage_names:-}; do
    if [ "$stage" = "$name" ]; then stage=$number; fi
    if [ "$stop_stage" = "$name" ]; then stop_stage=$number; fi
    number=$((number + 1))
done
if ! [[ $stage =~ ^[0-$last_stage]$ && $stop_stage =~ ^[0-$last_stage]$ && $stage -le $stop_stage ]]; then
    echo "stages must lie in 0 to $last_stage, with --stage at most --stop-stage; got --stage $stage --stop-stage $stop_stage" >&2
    exit 2
fi
# LAUNCH: how recipes are started; "python" on one process, "torchrun --nproc_per_node 4", ...
launch() { ${LAUNCH:-accelerate launch} "$repository/recipes/$1" "${@:2}"; }
runs() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }
