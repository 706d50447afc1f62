# Runs one command after the other in a sandbox; shell.py is at the other end, and says why.
# In: "TOKEN SIZE" and a script of so many bytes; meanwhile, a line of any kind ends what the script started.
# Out: "TOKEN start", what the script prints, "TOKEN CODE". Needs bash 4.4, coreutils, setsid and /proc.
exec 3<&0 4>&1 9<&- < /dev/null > /dev/null 2>&1 # bubblewrap leaves 9 open, by which it came in
# Names with _ cannot be those of the image's own variables, which commands inherit.
_signals='HUP INT QUIT PIPE TERM USR1 USR2 ALRM'
trap : $_signals # caught, because what is ignored here is ignored in every command

# Stop every process of the command's session before any is killed: what is stopped neither forks nor complains.
end_session() {
    local stat line session= running others
    while kill -0 $$; do
        running= others=
        for stat in /proc/[0-9]*/stat; do
            line=
            IFS= read -r -d '' line < "$stat"
            set -- ${line%% *} ${line##*) } # pid, state, parent, process group, session
            [ "$3" = $$ ] && [ "$1" = "$5" ] && session=$1
            [ "$5" = "$session" ] || continue
            [ "$1" = "$session" ] || others+=" $1"
            [[ $2 == [TtZX] ]] || running+=" $1"
        done
        if [ "$running" ]; then
            kill -STOP $running
        elif [ "$session" ]; then
            kill -KILL $others
            kill -KILL "$session" # last: its end is the command's
        fi
    done
}

while :; do
    exec 5> >(trap '' $_signals; exec cat >&4 3<&-) # a pipe of its own: later, what still writes to it has no reader
    _next=$!
    _size=
    until [ "$_size" ]; do read -r -u 3 _token _size || exit; done
    LC_ALL=C IFS= read -r -u 3 -N "$_size" _script || exit
    [ "$_pump" ] && kill -KILL "$_pump" && wait "$_pump"
    _pump=$_next
    (trap '' $_signals; exec 4>&- 5>&-; read -r -u 3; end_session) &
    _listener=$!
    (exec 3<&- >&5 2>&1 5>&-; printf '%s start\n' "$_token" >&4; exec 4>&-; eval "$_script")
    _code=$?
    kill -KILL "$_listener"
    wait "$_listener"
    printf '%s %d\n' "$_token" "$_code" >&5 || printf '%s %d\n' "$_token" "$_code" >&4
    exec 5>&-
done
