package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// systemctl is the part of systemd that kubeadm and the payload use. It starts kubelet as the unit of kubeadm's packages does.
const systemctl = `#!/bin/sh
echo "systemctl $*" >>"$WORK/calls"
case "$*" in
*start*kubelet*|*enable*--now*kubelet*)
  . /var/lib/kubelet/kubeadm-flags.env
  kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
    --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS >>"$WORK/kubelet.log" 2>&1 &
  ;;
esac
`

// unchecked is the kubeadm of the machine. It ignores failed checks of the machine, such as of its kernel.
const unchecked = `#!/bin/sh
echo "kubeadm $*" >>"$WORK/calls"
case $1 in
join) exec %s/kubeadm "$@" --ignore-preflight-errors=SystemVerification,FileContent--proc-sys-net-ipv4-ip_forward,Port-10250 ;;
*) exec %[1]s/kubeadm "$@" ;;
esac
`

// clusterOf is the configuration of kubeadm of the cluster. Nothing is limited by cgroups, because pods do not run.
const clusterOf = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: control-plane}
localAPIEndpoint: {advertiseAddress: 192.0.2.1}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
controlPlaneEndpoint: %q
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: [none]
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
`

// kubeadms returns the folder with the real kubeadm and kubelet.
func kubeadms(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("E2E_KUBEADM")
	if folder == "" {
		t.Skip("E2E_KUBEADM is not set")
	}
	if os.Geteuid() != 0 {
		t.Fatal("E2E_KUBEADM needs root")
	}
	return folder
}

// machineWith starts a machine that runs a script, and returns its folder.
func machineWith(t *testing.T, dir, name, folder, script string) string {
	t.Helper()
	work := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Join(work, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(work, "script"), []byte(script))
	for program, content := range map[string]string{"systemctl": systemctl, "kubeadm": fmt.Sprintf(unchecked, folder)} {
		path := filepath.Join(work, "bin", program)
		write(t, path, []byte(content))
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	own, err := filepath.Abs("machine.sh")
	if err != nil {
		t.Fatal(err)
	}
	running := start(t, dir, name, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", own, work, folder)
	t.Cleanup(func() {
		running.kill()
		for _, log := range []string{"output", "calls", "kubelet.log"} {
			if t.Failed() {
				t.Logf("--- %s of %s:\n%s", log, name, tail(filepath.Join(work, log), 3000))
			}
		}
	})
	return work
}

// awaitEnd waits until the script of a machine has ended, and returns its output.
func awaitEnd(t *testing.T, work string, deadline time.Duration) (status, output string) {
	t.Helper()
	await(t, "the script ends", deadline, func() error {
		content, err := os.ReadFile(filepath.Join(work, "status"))
		status = strings.TrimSpace(string(content))
		if err == nil && status == "" {
			err = errors.New("it has no status")
		}
		return err
	})
	return status, tail(filepath.Join(work, "output"), 1<<20)
}

// TestKubeadm runs the rendered payload with the real kubeadm and kubelet, up to the ready Node. The cluster has the objects
// of kubeadm's own phases. Pods do not run. It needs root and E2E_KUBEADM: a folder with kubeadm and kubelet.
func TestKubeadm(t *testing.T) {
	folder, dir := kubeadms(t), scratch(t)
	c := plane{joinable: true, withoutKubelets: true}.start(t, dir)
	w := &world{t: t, cluster: c}
	c.initialize(t, folder)
	w.vpsie = startSimulator(t, dir, c.kubeconfigOf("admin"), strings.Split(plainVMs, "clusters:")[0]+"clusters: []\n"+
		plainVMs[strings.Index(plainVMs, "datacenters:"):])
	w.witness = startWitness(t, c, w.vpsie)
	labels := object{"team": "one", "example.com/tier": "web"}
	group := vmGroup("general", 4, object{"labels": labels, "taints": []any{
		object{"key": "dedicated", "value": "web", "effect": "NoSchedule"},
		object{"key": "example.com/slow", "value": "", "effect": "PreferNoSchedule"},
	}}, small)
	c.prepare(t, w.vpsie, c.withEndpoint(t, group))
	w.provider = startProvider(t, c, append(impatient, "--backend=vm", "--log-level=info,vpsie_autoscaler=debug")...)
	w.provider.awaitLeader(t)
	pool := ""
	await(t, "the pool is served", 30*time.Second, func() error {
		pools, err := w.provider.pools(t)
		for id := range pools {
			pool = id
		}
		if err == nil && pool == "" {
			err = errors.New("it is not")
		}
		return err
	})

	script := w.request(pool, 0)
	machine := machineWith(t, dir, "machine-1", folder, script.content)
	await(t, "the Node is registered", 4*time.Minute, func() error {
		if status, err := os.ReadFile(filepath.Join(machine, "status")); err == nil && strings.TrimSpace(string(status)) != "0" {
			return fatal{fmt.Errorf("the payload failed: %s", tail(filepath.Join(machine, "output"), 3000))}
		}
		if log := tail(filepath.Join(machine, "kubelet.log"), 1<<20); strings.Contains(log, "command failed") {
			return fatal{fmt.Errorf("kubelet has ended: %s", log[max(0, len(log)-1500):])}
		}
		if _, seen := w.witness.firstVersion(script.hostname); !seen {
			return errors.New("it is not")
		}
		return nil
	})
	node, _ := w.witness.firstVersion(script.hostname)
	w.checkRegistration(w.templateOf(pool), node)
	if node.Status.NodeInfo.KubeletVersion == "" {
		t.Errorf("the Node has no version: %+v", node.Status.NodeInfo)
	}
	await(t, "the Node has the id of its VM and is ready", time.Minute, func() error {
		node, err := c.client.CoreV1().Nodes().Get(background, script.hostname, meta.GetOptions{})
		if err == nil && (!strings.HasPrefix(node.Spec.ProviderID, "vpsie://") || !ready(*node)) {
			err = fmt.Errorf("id %q, conditions %+v", node.Spec.ProviderID, node.Status.Conditions)
		}
		return err
	})
	if status, output := awaitEnd(t, machine, 3*time.Minute); status != "0" {
		t.Errorf("the payload ended with %s: %s", status, output)
	}
	w.awaitNoLeftovers(45 * time.Second)
	found, err := c.client.CoreV1().Nodes().Get(background, script.hostname, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.checkReserved(w.templateOf(pool), *found)
	t.Logf("%s: kubelet %s, runtime %s, labels %v, taints %v", found.Name, found.Status.NodeInfo.KubeletVersion,
		found.Status.NodeInfo.ContainerRuntimeVersion, node.Labels, node.Spec.Taints)

	second := w.request(pool, 1)
	config := regexp.MustCompile(`(?s)<<'VPSIE_JOIN_END'\n(.*?)VPSIE_JOIN_END\n`).FindStringSubmatch(second.content)
	if config == nil {
		t.Fatal("the payload has no configuration")
	}
	try := func(name, config string) string {
		t.Helper()
		join := "cat >/run/join.yaml <<'END'\n" + config + "timeouts: {discovery: 10s}\nEND\nkubeadm join --config /run/join.yaml\n"
		status, output := awaitEnd(t, machineWith(t, dir, name, folder, join), 2*time.Minute)
		if status == "0" {
			t.Errorf("%s has joined", name)
		}
		return output
	}
	hash := regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	other := try("other-ca", hash.ReplaceAllString(config[1], "sha256:"+strings.Repeat("0", 64)))
	if !strings.Contains(other, "pinned") {
		t.Errorf("another CA: %s", other)
	}
	token := w.witness.tokensOf(second.hostname)[0]
	c.delete(t, "/api/v1/namespaces/kube-system/secrets/bootstrap-token-"+token.id)
	revoked := try("revoked", config[1])
	if !strings.Contains(revoked, "token") {
		t.Errorf("a revoked token: %s", revoked)
	}
	if _, seen := w.witness.firstVersion(second.hostname); seen {
		t.Errorf("%s has a Node", second.hostname)
	}
	for what, output := range map[string]string{"another CA": other, "a revoked token": revoked} {
		lines := strings.Split(strings.TrimSpace(output), "\n")
		t.Logf("%s: %s", what, strings.Join(lines[max(0, len(lines)-4):], "\n"))
	}
}

// checkReserved checks that a Node reserves as much CPU and memory as the template says.
func (w *world) checkReserved(template, node core.Node) {
	w.t.Helper()
	for _, resource := range []core.ResourceName{core.ResourceCPU, core.ResourceMemory} {
		reserved := func(of core.Node) int64 {
			have, use := of.Status.Capacity[resource], of.Status.Allocatable[resource]
			have.Sub(use)
			return have.MilliValue()
		}
		if want, is := reserved(template), reserved(node); want != is {
			w.t.Errorf("the Node reserves %d/1000 of %s, the template %d/1000", is, resource, want)
		}
	}
}

// rendered is a payload, with the hostname of its VM.
type rendered struct{ hostname, content string }

// request requests one machine, and returns its payload. `known` is the number of earlier payloads.
func (w *world) request(pool string, known int) rendered {
	w.t.Helper()
	request := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	request = protowire.AppendString(protowire.AppendTag(request, 2, protowire.BytesType), pool)
	w.ask("NodeGroupIncreaseSize", request)
	var found rendered
	await(w.t, "VPSie has the payload", time.Minute, func() error {
		machines, err := w.vpsie.workers()
		if err != nil || len(machines) != known+1 {
			return fmt.Errorf("%d VMs: %v", len(machines), err)
		}
		for name, script := range w.witness.allScripts() {
			if script.gone.IsZero() {
				found = rendered{content: script.content}
			}
			for _, machine := range machines {
				if strings.Contains(name, machine.Hostname) && script.gone.IsZero() {
					found.hostname = machine.Hostname
				}
			}
		}
		if found.hostname == "" {
			return errors.New("it has none")
		}
		return nil
	})
	return found
}

// ask sends one RPC to the leader.
func (w *world) ask(rpc string, request []byte) fields {
	w.t.Helper()
	connection := dial(w.t, w.provider.awaitLeader(w.t).grpc)
	defer connection.Close()
	reply, err := ask(connection, rpc, request)
	if err != nil {
		w.t.Fatalf("%s: %v", rpc, err)
	}
	return reply
}

// templateOf requests the template of a pool.
func (w *world) templateOf(pool string) core.Node {
	w.t.Helper()
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), pool)
	reply := w.ask("NodeGroupTemplateNodeInfo", request)
	content := reply.text(2)
	if content == "" {
		content = reply.text(1)
	}
	node := core.Node{}
	if err := node.Unmarshal([]byte(content)); err != nil {
		w.t.Fatal(err)
	}
	return node
}

// initialize creates the objects of the cluster by the phases of `kubeadm init`.
func (c *controlPlane) initialize(t *testing.T, folder string) {
	t.Helper()
	await(t, "the namespace kube-public exists", 30*time.Second, func() error {
		there, err := c.get("/api/v1/namespaces/kube-public", &object{})
		if err == nil && !there {
			err = errors.New("it does not")
		}
		return err
	})
	// A phase annotates it.
	c.must(t, "POST", "/api/v1/nodes", object{"metadata": object{"name": "control-plane", "labels": object{"kubernetes.io/hostname": "control-plane"}}})
	var version struct{ GitVersion string }
	content, err := c.client.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(background)
	if err == nil {
		err = json.Unmarshal(content, &version)
	}
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(c.dir, "kubeadm.yaml")
	write(t, config, fmt.Appendf(nil, clusterOf, version.GitVersion, c.endpoint(t)))
	for _, phase := range [][]string{{"upload-config", "kubeadm"}, {"upload-config", "kubelet"}, {"bootstrap-token", "--skip-token-print"}} {
		arguments := append([]string{"init", "phase"}, phase...)
		arguments = append(arguments, "--config="+config, "--kubeconfig="+c.kubeconfigOf("admin"))
		if output, err := exec.Command(filepath.Join(folder, "kubeadm"), arguments...).CombinedOutput(); err != nil {
			t.Fatalf("kubeadm %v: %v\n%s", arguments, err, output)
		}
	}
}
