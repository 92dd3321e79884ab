#!/bin/sh
# A machine for the real kubeadm and kubelet: the file system of this machine with changes in memory only, and own processes,
# mounts and hostname. Root runs it by `unshare --mount --uts --pid --fork`. It runs `$1/script`, and then stays.
#   machine.sh <folder with `script` and `bin`> <folder with kubeadm and kubelet>
set -eu
work=$1 programs=$2
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p ".$work" ".$programs" var/lib/kubelet var/lib/containerd etc/cni/net.d
mount --bind "$work" ".$work"
mount --bind "$programs" ".$programs"
# The root of the file system of pods must be shared, and a disk of its own shows its size.
mount -t tmpfs tmpfs var/lib/kubelet
mount -t tmpfs tmpfs var/lib/containerd
mount --make-rshared .
# A network without plugins: no pod starts, but the runtime is ready.
cat >etc/cni/net.d/10-none.conflist <<'END'
{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}
END
export PATH="$work/bin:$programs:$PATH" WORK="$work"
exec chroot . sh -c '
  if command -v containerd >/dev/null; then
    containerd >"$WORK/containerd.log" 2>&1 &
    for _ in $(seq 100); do [ -S /run/containerd/containerd.sock ] && break; sleep 0.1; done
  fi
  sh "$WORK/script" >"$WORK/output" 2>&1
  echo $? >"$WORK/status"
  exec sleep infinity
'
