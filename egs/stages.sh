# What every run.sh does with its arguments; sourced with these set:
#   stage=0 stop_stage=7     the first stage and the last that there are, until --stage and --stop-stage say otherwise
#   options="data out"       the other variables that may be set: --data and --out
# What follows -- is left in "$@".
last_stage=$stop_stage

usage() { sed -n '2,/^[^#]/{/^#/p}' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    [ "$1" = -- ] && { shift; break; }
    [ $# -ge 2 ] || usage
    name=${1#--}
    if [ "$1" = "$name" ] || [[ " stage stop-stage $options " != *" $name "* ]]; then
        echo "unknown option $1" >&2
        usage
    fi
    printf -v "${name//-/_}" %s "$2"
    shift 2
done
if ! [[ $stage =~ ^[0-$last_stage]$ && $stop_stage =~ ^[0-$last_stage]$ && $stage -le $stop_stage ]]; then
    echo "stages are 0 to $last_stage, the first no later than the last; got --stage $stage --stop-stage $stop_stage" >&2
    exit 2
fi
runs() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }
