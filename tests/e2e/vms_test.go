package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

const (
	// marker begins the notes of each VM of the provider, otherMarker those that a test creates for another cluster.
	marker      = "vpsie-autoscaler "
	otherMarker = marker + "00000000-0000-0000-0000-000000000000 "
	image       = "ubuntu-24.04"
	huge        = "s-8vcpu-16gb"
)

// plainVMs is a simulated VPSie with two datacenters and offers of guaranteed memory. The managed cluster has the
// foreign nodes only.
const plainVMs = simulated + `
datacenters:
- {identifier: ams1, name: AMS}
- {identifier: fra1, name: FRA}
offers:
- {id: 2, name: s-2vcpu-4gb, category: C, cpu: 2, ram: 4096, disk: 80, monthly: 24}
- {id: 3, name: s-4vcpu-8gb, category: C, cpu: 4, ram: 8192, disk: 160, monthly: 48}
- {id: 4, name: s-8vcpu-16gb, category: C, cpu: 8, ram: 16384, disk: 320, monthly: 96}
`

// vmGroup returns a NodeGroup of plain VMs that join with kubeadm, with offers in order of preference. `changes` are merged
// into its spec.
func vmGroup(name string, most int, changes object, offers ...string) object {
	group := object{
		"apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup", "metadata": object{"name": name},
		"spec": object{
			"minNodes": 0, "maxNodes": most, "datacenterID": "ams1", "offeringIDs": offers, "osImageID": image,
			"selfManaged": object{"joinKind": "kubeadm"},
		},
	}
	return patched(group, object{"spec": changes})
}

// inDatacenters distributes a NodeGroup over ams1 and fra1. `changes` are merged into multiRegion.
func inDatacenters(changes object) object {
	return object{"multiRegion": patched(object{
		"enabled": true, "datacenterIDs": []any{"ams1", "fra1"}, "minNodesPerRegion": 0,
	}, changes)}
}

// withEndpoint sets the endpoint that VMs join.
func (c *controlPlane) withEndpoint(t *testing.T, group object) object {
	t.Helper()
	return patched(group, object{"spec": object{"selfManaged": object{"endpoint": c.endpoint(t)}}})
}

// selfManagedWorld is a self-managed cluster. More fields of the setting can be given.
func selfManagedWorld(t *testing.T, d driver, recorded *recording, more setting, nodeGroups ...object) *world {
	t.Helper()
	more.nodeGroups, more.selfManaged, more.vpsie = nodeGroups, true, plainVMs
	more.provider = append([]string{"--log-level=info,vpsie_autoscaler=debug"}, more.provider...)
	return more.world(t, d, recorded)
}

// part runs one scenario in the world, as a subtest.
func (w *world) part(name string, run func()) {
	outer := w.t
	outer.Helper()
	w.began, w.notes = time.Now(), nil
	passed := outer.Run(name, func(t *testing.T) {
		w.t = t
		run()
	})
	w.t = outer
	if !passed {
		outer.FailNow()
	}
}

// long returns true iff scenarios of more than five minutes run, too.
func long() bool { return os.Getenv("E2E_LONG") != "" }

func onlyLong(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("E2E_LONG is not set")
	}
}

// ofGroup selects the Nodes of a NodeGroup.
func ofGroup(name string) map[string]string {
	return map[string]string{"autoscaler.vpsie.com/nodegroup": name}
}

// nodesOf returns the Nodes of a NodeGroup.
func (w *world) nodesOf(group string) ([]core.Node, error) {
	return w.nodes(func(node core.Node) bool { return node.Labels["autoscaler.vpsie.com/nodegroup"] == group })
}

// countIn returns the number of VMs by datacenter.
func (w *world) countIn() (map[string]int, error) {
	machines, err := w.vpsie.workers()
	found := map[string]int{}
	for _, machine := range machines {
		if machine.Phase != "deleting" {
			found[machine.Datacenter]++
		}
	}
	return found, err
}

// allVMs returns the VMs that the provider has requested, with deleted ones, in the order of their requests.
func (w *world) allVMs() []vm {
	w.t.Helper()
	var gone []vm
	if err := w.vpsie.control("GET", "/gone", nil, &gone); err != nil {
		w.t.Fatal(err)
	}
	machines, err := w.vpsie.workers()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, machine := range gone {
		if machine.ofProvider() {
			machines = append(machines, machine)
		}
	}
	slices.SortFunc(machines, func(a, b vm) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return machines
}

// fault adds a fault to the simulator.
func (w *world) fault(rule string) {
	w.t.Helper()
	w.vpsie.must(w.t, "POST", "/faults", object{"rule": rule})
}

// datacenter replaces the faults of a datacenter.
func (w *world) datacenter(name string, faults object) {
	w.t.Helper()
	w.vpsie.must(w.t, "PUT", "/datacenters/"+name, faults)
}

// reply is a list of VPSie.
type reply struct {
	Data []map[string]any `json:"data"`
}

// plan returns the identifier of an offer in a datacenter.
func (w *world) plan(datacenter, offer string) string {
	w.t.Helper()
	var categories reply
	if err := w.vpsie.user("GET", "/plans/category", nil, &categories); err != nil {
		w.t.Fatal(err)
	}
	for _, category := range categories.Data {
		var plans reply
		request := object{"dcIdentifier": datacenter, "osIdentifier": image, "planCatIdentifier": category["identifier"]}
		if err := w.vpsie.user("POST", "/resources", request, &plans); err != nil {
			w.t.Fatal(err)
		}
		for _, plan := range plans.Data {
			if plan["nickname"] == offer {
				return plan["identifier"].(string)
			}
		}
	}
	w.t.Fatalf("%s has no plan %s", datacenter, offer)
	return ""
}

// createVM creates a VM as a user does. `more` is added to the request.
func (w *world) createVM(hostname, notes string, more object) {
	w.t.Helper()
	request := patched(more, object{
		"dcIdentifier": "ams1", "osIdentifier": image, "resourceIdentifier": w.plan("ams1", small), "hostname": hostname,
		"notes": notes, "addPublicIpV4": 1, "addPublicIpV6": 0, "addPrivateIp": 1, "backupEnabled": 0,
	})
	if err := w.vpsie.user("POST", "/vm", request, nil); err != nil {
		w.t.Fatal(err)
	}
}

// awaitConditionText waits for a condition of a NodeGroup with this text in its message.
func (w *world) awaitConditionText(group, kind, words string, deadline time.Duration) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%s of %s has the text %q", kind, group, words), deadline, func() error {
		var found declared
		if _, err := w.cluster.get(objects+"/nodegroups/"+group, &found); err != nil {
			return err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == kind && strings.Contains(condition.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("%+v", found.Status.Conditions)
	})
}

// increase is an accepted or refused request of Cluster Autoscaler for more nodes.
type increase struct {
	pool  string
	delta int
	code  string
	at    time.Time
	// loop is the number of the run of the loop.
	loop int
}

// increases returns the requests for more nodes after the first RPCs.
func (w *world) increases(after int) []increase {
	var found []increase
	loop := 0
	for n, e := range w.proxy.allExchanges() {
		switch e.rpc {
		case "Refresh":
			loop++
		case "NodeGroupIncreaseSize":
			if n >= after {
				request := parse(e.request)
				found = append(found, increase{request.text(2), request.number(1), e.code, e.at, loop})
			}
		}
	}
	return found
}

// in returns true iff the pool is in the datacenter.
func (i increase) in(datacenter string) bool {
	return slices.Contains(strings.Split(i.pool, "/"), datacenter)
}

// checkIncreases fails the test if a request for more nodes was refused.
func (w *world) checkIncreases(after int) {
	w.t.Helper()
	for _, i := range w.increases(after) {
		if i.code != "OK" {
			w.t.Errorf("the increase of %s by %d was refused: %s", i.pool, i.delta, i.code)
		}
	}
}

// awaitRunning waits until this number of pods run, and none wait.
func (w *world) awaitRunning(pods int, deadline time.Duration) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%d pods run", pods), deadline, func() error {
		if err := w.autoscaler.ended(); err != nil {
			return fatal{err}
		}
		running, waiting, err := w.pods()
		if err == nil && (running != pods || waiting != 0) {
			counted, _ := w.countIn()
			err = fmt.Errorf("%d run, %d wait; VMs %v", running, waiting, counted)
		}
		return err
	})
}

// metrics returns the metrics of the leader.
func (w *world) metrics() (string, error) {
	leader, err := w.provider.leader()
	if err != nil {
		return "", err
	}
	response, err := probe.Get("http://" + leader.http + "/metrics")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return string(content), err
}

// awaitNoLeftovers waits until no token and no script exists.
func (w *world) awaitNoLeftovers(deadline time.Duration) {
	w.t.Helper()
	await(w.t, "no token and no script is left", deadline, w.witness.checkNoLeftovers)
}

// awaitEmpty removes all pods of a Deployment, and waits until no node is left.
func (w *world) awaitEmpty(deployment string, deadline time.Duration) {
	w.t.Helper()
	w.scale(deployment, 0)
	w.awaitSettled(0, 0, 0, deadline)
}

// template returns the template of a pool, as Cluster Autoscaler gets it.
func (w *world) template(pool string) core.Node {
	w.t.Helper()
	var found *core.Node
	for _, e := range w.proxy.allExchanges() {
		if e.rpc != "NodeGroupTemplateNodeInfo" || e.code != "OK" || parse(e.request).text(1) != pool {
			continue
		}
		reply := parse(e.reply)
		content := reply.text(2)
		if content == "" {
			content = reply.text(1)
		}
		node := &core.Node{}
		if err := node.Unmarshal([]byte(content)); err != nil {
			w.t.Fatal(err)
		}
		found = node
	}
	if found == nil {
		w.t.Fatalf("Cluster Autoscaler did not request the template of %s", pool)
	}
	return *found
}

// poolOf returns the pool of a Node, as Cluster Autoscaler got it.
func (w *world) poolOf(name string) (string, error) {
	pool, asked := "", false
	for _, e := range w.proxy.allExchanges() {
		if e.rpc != "NodeGroupForNode" || e.code != "OK" {
			continue
		}
		for _, node := range parse(e.request).messages(1) {
			if node.text(2) != name {
				continue
			}
			asked, pool = true, ""
			for _, group := range parse(e.reply).messages(1) {
				pool = group.text(1)
			}
		}
	}
	if !asked {
		return "", errors.New("Cluster Autoscaler has not asked for its pool")
	}
	return pool, nil
}
