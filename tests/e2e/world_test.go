package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v1"
	core "k8s.io/api/core/v1"
	scheduling "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const managed = "autoscaler.vpsie.com/managed"

// world has a cluster, a simulated VPSie, the provider and a Cluster Autoscaler.
type world struct {
	t          *testing.T
	local      bool
	cluster    *controlPlane
	vpsie      *simulator
	provider   *provider
	proxy      *proxy
	expander   *tunnel
	autoscaler *process
	// replaced is true iff another Cluster Autoscaler was started, which ends before the world is checked.
	replaced bool
	began    time.Time
	notes    []string
	foreign  map[string]string
	// witness has what a self-managed cluster and VPSie have shown; nil in other worlds.
	witness *witness
}

var background = context.Background()

// setting is the configuration of a world.
type setting struct {
	nodeGroups []object
	// local runs the provider as one process with records in files.
	local bool
	// election has the election times of the provider; default: impatient.
	election []string
	// autoscaler has additional flags of Cluster Autoscaler.
	autoscaler []string
	// expander puts the provider's expander first in the chain of Cluster Autoscaler.
	expander bool
	// provider has additional flags of the provider.
	provider []string
	// vpsie is the configuration of the simulator; empty for the usual one.
	vpsie string
	// scheduler is added to the configuration of kube-scheduler.
	scheduler string
	// selfManaged has plain VMs that join by themselves, in place of a managed cluster.
	selfManaged bool
}

func newWorld(t *testing.T, d driver, recorded *recording, nodeGroups ...object) *world {
	t.Helper()
	return setting{nodeGroups: nodeGroups}.world(t, d, recorded)
}

func (s setting) world(t *testing.T, d driver, recorded *recording) *world {
	t.Helper()
	dir := scratch(t)
	w := &world{t: t, local: s.local, cluster: plane{scheduler: s.scheduler, joinable: s.selfManaged}.start(t, dir)}
	admin := w.cluster.kubeconfigOf("admin")
	if s.vpsie == "" {
		s.vpsie = simulated
	}
	var booting []string
	if s.selfManaged {
		booting = []string{"--boot-vms"}
		s.provider = append(s.provider, "--backend=vm")
		w.cluster.permitJoins(t)
		for n, group := range s.nodeGroups {
			s.nodeGroups[n] = w.cluster.withEndpoint(t, group)
		}
	}
	w.vpsie = startSimulator(t, dir, admin, s.vpsie, booting...)
	if s.selfManaged {
		w.witness = startWitness(t, w.cluster, w.vpsie)
	}
	if s.local {
		w.cluster.prepare(t, w.vpsie)
		w.provider = startLocalProvider(t, w.cluster, w.vpsie, s.nodeGroups...)
	} else {
		if s.election == nil {
			s.election = impatient
		}
		w.cluster.prepare(t, w.vpsie, s.nodeGroups...)
		if s.expander {
			s.provider = append(s.provider, "--expander-tls-cert="+w.cluster.file("server.crt"),
				"--expander-tls-key="+w.cluster.file("server.key"))
		}
		w.provider = startProvider(t, w.cluster, append(s.election, s.provider...)...)
	}
	await(t, "a replica is ready", 40*time.Second, func() error {
		_, err := w.provider.leader()
		return err
	})
	w.proxy = startProxy(t, func() (string, error) {
		leader, err := w.provider.leader()
		if err != nil {
			return "", err
		}
		return leader.grpc, nil
	})
	await(t, "the foreign nodes are ready", 30*time.Second, func() error {
		nodes, err := w.nodes(func(node core.Node) bool { return !isOurs(node) })
		if err != nil {
			return err
		}
		if len(nodes) != 2 || !ready(nodes[0]) || !ready(nodes[1]) {
			return fmt.Errorf("%d nodes", len(nodes))
		}
		w.foreign = foreignState(nodes)
		return nil
	})
	if s.expander {
		w.expander = startTunnel(t, func() (string, error) {
			leader, err := w.provider.leader()
			if err != nil {
				return "", err
			}
			return leader.expander, nil
		})
		s.autoscaler = append(s.autoscaler, "--expander=grpc,least-waste", "--grpc-expander-url="+w.expander.address,
			"--grpc-expander-cert="+w.cluster.file("ca.crt"))
	}
	w.autoscaler = d.start(t, dir, admin, w.proxy.address, s.autoscaler)
	await(t, "the loop runs", 40*time.Second, func() error {
		if err := w.autoscaler.ended(); err != nil {
			return fatal{err}
		}
		if len(loops(w.proxy.allExchanges())) < 3 {
			return errors.New("it does not")
		}
		return nil
	})
	w.began = time.Now()
	t.Cleanup(func() {
		if err := w.autoscaler.ended(); err != nil && !w.replaced {
			t.Error(err)
		}
		w.provider.checkLogs(t)
		w.cluster.checkRights(t, d)
		w.checkForeignNodes()
		if s.selfManaged && !t.Failed() {
			w.checkSecrets()
		}
		w.autoscaler.stop()
		recorded.add(w.proxy.allExchanges())
	})
	return w
}

// restartAutoscaler starts Cluster Autoscaler with other flags.
func (w *world) restartAutoscaler(d driver, flags []string) {
	w.t.Helper()
	w.autoscaler.stop()
	w.autoscaler = d.start(w.t, w.cluster.dir, w.cluster.kubeconfigOf("admin"), w.proxy.address, flags)
	w.replaced = true
}

// scratch returns a folder that is kept if the test fails or E2E_KEEP is set.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vpsie-autoscaler-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("E2E_KEEP") != "" {
			t.Logf("logs are in %s", dir)
		} else {
			_ = os.RemoveAll(dir)
		}
	})
	return dir
}

// deploy creates a Deployment. Its pods run only on managed nodes, because foreign nodes have free resources.
func (w *world) deploy(name string, replicas int32, cpu, memory string) {
	w.t.Helper()
	w.deployTo(map[string]string{managed: "true"}, name, replicas, cpu, memory)
}

func (w *world) deployTo(nodes map[string]string, name string, replicas int32, cpu, memory string) {
	w.t.Helper()
	w.deployWith(core.PodSpec{NodeSelector: nodes}, name, replicas, cpu, memory)
}

// prioritize creates a PriorityClass.
func (w *world) prioritize(name string, value int32) {
	w.t.Helper()
	class := &scheduling.PriorityClass{ObjectMeta: meta.ObjectMeta{Name: name}, Value: value}
	if _, err := w.cluster.client.SchedulingV1().PriorityClasses().Create(background, class, meta.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// deployWith creates a Deployment. Its pods run on managed nodes unless they have a node selector.
func (w *world) deployWith(spec core.PodSpec, name string, replicas int32, cpu, memory string) {
	w.t.Helper()
	if spec.NodeSelector == nil {
		spec.NodeSelector = map[string]string{managed: "true"}
	}
	label := map[string]string{"app": name}
	requests := core.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	spec.TerminationGracePeriodSeconds = new(int64)
	spec.Containers = []core.Container{{
		Name: "main", Image: "none", Resources: core.ResourceRequirements{Requests: requests},
	}}
	pod := core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: label}, Spec: spec}
	deployment := &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: apps.DeploymentSpec{
			Replicas: &replicas, Selector: &meta.LabelSelector{MatchLabels: label}, Template: pod,
		},
	}
	if _, err := w.cluster.client.AppsV1().Deployments("default").Create(background, deployment, meta.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) scale(name string, replicas int32) {
	w.t.Helper()
	scale := &autoscaling.Scale{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "default"}, Spec: autoscaling.ScaleSpec{Replicas: replicas},
	}
	if _, err := w.cluster.client.AppsV1().Deployments("default").UpdateScale(background, name, scale, meta.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// pods returns the number of pods that run on ready nodes, and of pods that wait.
func (w *world) pods() (running, waiting int, err error) {
	pods, err := w.cluster.client.CoreV1().Pods("default").List(background, meta.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	for _, pod := range pods.Items {
		if pod.Status.Phase == core.PodRunning && pod.DeletionTimestamp == nil {
			running++
		} else {
			waiting++
		}
	}
	return running, waiting, nil
}

func (w *world) nodes(which func(core.Node) bool) ([]core.Node, error) {
	nodes, err := w.cluster.client.CoreV1().Nodes().List(background, meta.ListOptions{LabelSelector: labels.Everything().String()})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(nodes.Items, func(node core.Node) bool { return !which(node) }), nil
}

// note adds a text to the summary.
func (w *world) note(format string, values ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, values...))
}

func isOurs(node core.Node) bool { return node.Labels[managed] == "true" }

func ready(node core.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition core.NodeCondition) bool {
		return condition.Type == core.NodeReady && condition.Status == core.ConditionTrue
	})
}

// foreignState returns the properties of foreign nodes that must not change.
func foreignState(nodes []core.Node) map[string]string {
	seen := map[string]string{}
	for _, node := range nodes {
		// Taints of Kubernetes change with the health of the node.
		taints := slices.DeleteFunc(node.Spec.Taints, func(taint core.Taint) bool {
			return strings.HasPrefix(taint.Key, "node.kubernetes.io/")
		})
		seen[node.Name] = fmt.Sprint(node.UID, taints, node.Spec.Unschedulable, node.Spec.ProviderID, node.Labels)
	}
	return seen
}

// checkSettled checks the numbers of running and waiting pods and of nodes, and that all views of the nodes
// are equal: targets and instances of the provider, VMs at VPSie, Nodes and VPSieNodes.
func (w *world) checkSettled(running, waiting, size int) error {
	isRunning, isWaiting, err := w.pods()
	if err != nil {
		return err
	}
	nodes, err := w.nodes(isOurs)
	if err != nil {
		return err
	}
	groups, err := w.provider.pools(w.t)
	if err != nil {
		return err
	}
	machines, err := w.vpsie.workers()
	if err != nil {
		return err
	}
	target, instances := 0, map[string]bool{}
	for _, group := range groups {
		target += group.target
		for id, state := range group.instances {
			instances[id] = state == 1
		}
	}
	ids := map[string]bool{}
	for _, node := range nodes {
		ids[node.Spec.ProviderID] = ready(node)
	}
	// Agents of k3s set an id of their own.
	own := map[string]string{}
	for _, node := range nodes {
		if strings.HasPrefix(node.Spec.ProviderID, "k3s://") {
			own[node.Name] = node.Spec.ProviderID
		}
	}
	bought := map[string]bool{}
	for _, machine := range machines {
		id, ok := own[machine.Hostname]
		if !ok {
			id = "vpsie://" + machine.UUID
		}
		bought[id] = machine.Phase == "running"
	}
	records, err := w.records(own)
	if err != nil {
		return err
	}
	if w.local {
		records = ids
	}
	seen := fmt.Sprintf("%d pods run, %d wait; target %d; instances %v; VMs %v; Nodes %v; VPSieNodes %v",
		isRunning, isWaiting, target, instances, bought, ids, records)
	agree := maps.Equal(instances, ids) && maps.Equal(ids, bought) && maps.Equal(ids, records) && !slices.Contains(slices.Collect(maps.Values(ids)), false)
	if isRunning != running || isWaiting != waiting || target != size || len(ids) != size || !agree {
		return errors.New(seen)
	}
	return w.checkStatuses(size)
}

// records returns whether each machine runs, by the id of its VM, or by its name without a VM. `own` has the ids that
// Nodes have set themselves, by their names.
func (w *world) records(own map[string]string) (map[string]bool, error) {
	records, err := w.cluster.records()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, record := range records {
		if record.isAwaitingVM() {
			continue
		}
		id := record.Status.VM
		if id == "" {
			id = record.Metadata.Name
		}
		id = "vpsie://" + id
		if set, ok := own[record.Status.Hostname]; ok {
			id = set
		}
		found[id] = record.Status.Phase == "Running"
	}
	return found, nil
}

// checkStatuses checks that the statuses of all NodeGroups have this number of nodes in total, all of them
// ready.
func (w *world) checkStatuses(size int) error {
	if w.local {
		return nil
	}
	groups, err := w.cluster.nodeGroups()
	if err != nil {
		return err
	}
	var current, desired, ready int
	for _, group := range groups {
		if group.Metadata.Generation != group.Status.ObservedGeneration {
			return fmt.Errorf("the status of %s has generation %d, want %d", group.Metadata.Name,
				group.Status.ObservedGeneration, group.Metadata.Generation)
		}
		current += group.Status.CurrentNodes
		desired += group.Status.DesiredNodes
		ready += group.Status.ReadyNodes
	}
	if current != size || desired != size || ready != size {
		return fmt.Errorf("the statuses of NodeGroups have %d nodes, %d desired, %d ready, want %d", current, desired, ready, size)
	}
	return nil
}

func (w *world) awaitSettled(running, waiting, size int, deadline time.Duration) {
	w.t.Helper()
	what := fmt.Sprintf("%d pods run, %d wait, %d nodes", running, waiting, size)
	await(w.t, what, deadline, func() error {
		if err := w.autoscaler.ended(); err != nil {
			return fatal{err}
		}
		return w.checkSettled(running, waiting, size)
	})
}

// countCreated returns the number of VMs that were ever created through the API.
func (w *world) countCreated() int {
	w.t.Helper()
	var gone []vm
	if err := w.vpsie.control("GET", "/gone", nil, &gone); err != nil {
		w.t.Fatal(err)
	}
	machines, err := w.vpsie.workers()
	if err != nil {
		w.t.Fatal(err)
	}
	count := len(machines)
	for _, machine := range gone {
		if machine.ofProvider() {
			count++
		}
	}
	return count
}

// checkForeignNodes checks that the initial nodes are unchanged, and that no request deletes them.
func (w *world) checkForeignNodes() {
	w.t.Helper()
	nodes, err := w.nodes(func(node core.Node) bool { _, there := w.foreign[node.Name]; return there })
	if err != nil {
		w.t.Fatal(err)
	}
	if now := foreignState(nodes); !maps.Equal(now, w.foreign) {
		w.t.Errorf("foreign nodes were changed:\nbefore %v\nnow    %v", w.foreign, now)
	}
	for _, e := range w.proxy.allExchanges() {
		for name := range w.foreign {
			if e.rpc == "NodeGroupDeleteNodes" && strings.Contains(string(e.request), name) {
				w.t.Errorf("Cluster Autoscaler requested the deletion of %s", name)
			}
		}
	}
}
