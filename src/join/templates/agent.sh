#!/bin/sh
{%- if join_kind == "k3s" %}
# Joins this VM to the cluster as an agent of k3s. It needs /usr/local/bin/k3s: the image has it, or
{%- else %}
# Joins this VM to the cluster as an agent of RKE2. It needs RKE2 with its unit rke2-agent: the image has it, or
{%- endif %}
# vars.install_command installs it. It may run twice.
set -eu
umask 077
node={{ node_name|sh }}
host={{ endpoint_host|sh }}
config=/etc/rancher/{{ join_kind }}/config.yaml

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
  for copy in "$0" /var/lib/cloud/instance/user-data.txt /var/lib/cloud/instance/user-data.txt.i; do
    if [ -f "$copy" ] && grep -qsF 'vpsie-join: gave up' "$copy"; then rm -f "$copy"; fi
  done
}

if [ -f /var/lib/rancher/{{ join_kind }}/agent/client-kubelet.crt ]; then
  systemctl enable --now --no-block {{ join_kind }}-agent
  delete_copies
  exit 0
fi

retry getent ahosts "$host"
hostnamectl set-hostname "$node" || hostname "$node"
grep -qF "$node" /etc/hosts || echo "127.0.1.1 $node" >>/etc/hosts

mkdir -p /etc/rancher/{{ join_kind }}
cat >"$config" <<'VPSIE_JOIN_END'
server: {{ ("https://" ~ endpoint)|yaml }}
token: {{ token|yaml }}
node-name: {{ node_name|yaml }}
node-label: {{ label_list|yaml }}
node-taint: {{ taint_list|yaml }}
{%- if kubelet_args %}
kubelet-arg: {{ kubelet_args|yaml }}
{%- endif %}
VPSIE_JOIN_END
{%- if vars.install_command is defined %}

# vars.install_command
(
umask 022
{{ vars.install_command }}
)
{%- endif %}
{%- if join_kind == "k3s" %}

if ! systemctl cat k3s-agent >/dev/null 2>&1; then
  cat >/etc/systemd/system/k3s-agent.service <<'VPSIE_JOIN_END'
[Unit]
Description=k3s agent
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=/usr/local/bin/k3s agent
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
VPSIE_JOIN_END
  systemctl daemon-reload
fi
{%- endif %}

# The agent keeps trying until the server answers. Its configuration keeps the token, readable by root only: a bootstrap
# token is deleted once the Node has joined.
systemctl enable --now --no-block {{ join_kind }}-agent
delete_copies
