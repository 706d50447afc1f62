# Runs one command after the other in a sandbox; shell.py is at the other end, and says why.
# In: "TOKEN SIZE" and a script of so many bytes; meanwhile, a line without a size ends what the script started.
# Out: "TOKEN start", what the script prints, "TOKEN CODE". Needs bash 4.4, coreutils, setsid and /proc.
exec 3<&0 4>&1 9<&- < /dev/null > /dev/null 2>&1 # bubblewrap leaves 9 open, by which it came in
# Names with _ cannot be those of the image's own variables, which commands inherit.
_signals='HUP INT QUIT PIPE TERM USR1 USR2 ALRM'
trap : $_signals # caught, because what is ignored here is ignored in every command

# Hand on what is to be run; while it runs, somebody has to hear that it is to end.
listen() {
    local LC_ALL=C token size script
    while read -r -u 3 token size; do
        if [ "$size" ]; then
            IFS= read -r -u 3 -N "$size" script
            printf '%s %s\n%s' "$token" "$size" "$script"
        else
            end_session
        fi
    done
    exec >&- # nobody is there any more
    while kill -0 $$; do end_session; done
}

# Stop every process of the command's session before any is killed: what is stopped neither forks nor complains.
# Whoever asks does so again: there is none before the script has made one.
end_session() {
    local stat line session= running=1 others
    while [ "$running" ]; do
        running= others=
        for stat in /proc/[0-9]*/stat; do
            line=
            IFS= read -r -d '' line < "$stat"
            set -- ${line%% *} ${line##*) } # pid, state, parent, process group, session
            if [ "$3" = $$ ] && [ "$1" = "$5" ]; then
                [ "$session" ] || running=$1
                session=$1
            fi
            [ "$session" ] && [ "$5" = "$session" ] || continue
            [ "$1" = "$session" ] || others+=" $1"
            [[ $2 == [TtZX] ]] || running+=" $1"
        done
        [ -z "$running" ] || kill -STOP $running
    done
    [ -z "$others" ] || kill -KILL $others
    [ -z "$session" ] || kill -KILL "$session" # last: its end is the command's
}

exec 3< <(trap '' $_signals; exec 4>&-; listen)
while :; do
    [ "$_next" ] || { exec 5> >(trap '' $_signals; exec cat >&4 3<&-); _next=$!; }
    read -r -u 3 _token _size || exit
    LC_ALL=C IFS= read -r -u 3 -N "$_size" _script || exit
    [ "$_pump" = "$_next" ] || { kill -KILL "$_pump" && wait "$_pump"; _pump=$_next; }
    _before=(/proc/[0-9]*)
    (exec 3<&- >&5 2>&1 5>&-; printf '%s start\n' "$_token" >&4; exec 4>&-; eval "$_script")
    _code=$?
    printf '%s %d\n' "$_token" "$_code" >&5 || printf '%s %d\n' "$_token" "$_code" >&4
    _after=(/proc/[0-9]*)
    # What is left may still write to its pipe: the next command gets another, and this one no reader.
    [ "${_before[*]}" = "${_after[*]}" ] || _next=
done
