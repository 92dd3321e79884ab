#!/bin/sh
# Joins this VM to the cluster with kubeadm. It needs kubeadm, kubelet and a container runtime: the image has them, or
# vars.install_command installs them. It may run twice.
set -eu
umask 077
node={{ node_name|sh }}
host={{ endpoint_host|sh }}
config=/run/vpsie-join.yaml

# Runs a command until it succeeds, at most 5 minutes.
retry() {
  for _ in $(seq 60); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 5
  done
  echo "vpsie-join: gave up after 5 minutes: $*" >&2
  return 1
}

# Deletes copies of this script: it contains the join credential.
delete_copies() {
  rm -f "$config"
  for copy in "$0" /var/lib/cloud/instance/user-data.txt /var/lib/cloud/instance/user-data.txt.i; do
    if [ -f "$copy" ] && grep -qsF 'vpsie-join: gave up' "$copy"; then rm -f "$copy"; fi
  done
}

join() {
  for _ in $(seq 5); do
    if kubeadm join --config "$config"; then return 0; fi
    # The Node has its own credential, and the token may be deleted by now.
    if [ -f /etc/kubernetes/kubelet.conf ]; then return 0; fi
    kubeadm reset --force || true
    sleep 15
  done
  return 1
}

if [ -f /etc/kubernetes/kubelet.conf ]; then
  systemctl enable --now kubelet
  delete_copies
  exit 0
fi

retry getent ahosts "$host"
hostnamectl set-hostname "$node" || hostname "$node"
grep -qF "$node" /etc/hosts || echo "127.0.1.1 $node" >>/etc/hosts
{%- if vars.install_command is defined %}

# vars.install_command
(
umask 022
{{ vars.install_command }}
)
{%- endif %}

cat >"$config" <<'VPSIE_JOIN_END'
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: {{ endpoint|yaml }}
    token: {{ token|yaml }}
    caCertHashes: {{ ca_hashes|yaml }}
nodeRegistration:
  name: {{ node_name|yaml }}
  taints: {{ taints|yaml }}
  kubeletExtraArgs:
  - name: node-labels
    value: {{ kubelet_labels|yaml }}
{%- if kubelet_reserved %}
  - name: kube-reserved
    value: {{ kubelet_reserved|yaml }}
{%- endif %}
{%- if cloud_provider_external %}
  - name: cloud-provider
    value: external
{%- endif %}
VPSIE_JOIN_END

systemctl enable kubelet
join
delete_copies
