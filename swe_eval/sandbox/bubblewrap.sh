# Keeps one sandbox; bubblewrap.py starts it in a user namespace and a mount namespace of its own, as their root.
# Arguments: the store's layers, overlayfs's lowerdir, the sandbox's folder, how to mount, and bwrap with its arguments.
# Out: what the sandbox's process 1 says. Its input ends, also by the death of whoever started it, and then the sandbox
# does. If this is killed, bwrap dies with it: that is its --die-with-parent.
layers=$1 lower=$2 folder=$3 how=$4
shift 4
cd "$layers" || exit
echo 1000 > /proc/self/oom_score_adj # where memory runs out, this goes first, and not a model server
exec 3< "$folder"                    # names with a comma or a colon would not do as an option of mount
options=lowerdir=$lower,upperdir=/proc/self/fd/3/upper,workdir=/proc/self/fd/3/work
if [ "$how" = fuse ]; then
    fuse-overlayfs -o "$options" "$folder/root" || exit
else # a newer mount(8) cuts options off at 256 bytes unless it is told to use the older system call
    LIBMOUNT_FORCE_MOUNT2=always mount -t overlay overlay -o "$options,userxattr" "$folder/root" || exit
fi
exec 3<&-
mount -t tmpfs -o mode=1777,size=64m shm "$folder/shm" || exit
echo 0 > /proc/sys/user/max_user_namespaces # of this one: no command makes another
"$@" < /dev/null &
read -r _
exec > /dev/null 2>&1 # nobody may be there to hear it
kill -KILL $!
wait
umount "$folder/root" "$folder/shm"
cd /
rm -rf "$folder/upper" "$folder/work" "$folder" # what says whose it is goes last
