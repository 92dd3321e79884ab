package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	capacityType = "autoscaler.vpsie.com/capacity-type"
	interruption = "autoscaler.vpsie.com/interruption"
)

// spotOffers is the simulator's usual configuration with spot offers at a third of the price.
const spotOffers = simulated + `
offers:
- {id: 2, name: s-2vcpu-4gb, cpu: 2, ram: 4096, disk: 80, monthly: 24, spotMonthly: 8}
- {id: 3, name: s-4vcpu-8gb, cpu: 4, ram: 8192, disk: 160, monthly: 48, spotMonthly: 16}
`

// spotWorld has one NodeGroup with spot pools, and the expander of the provider. More fields of the setting can be given.
func spotWorld(t *testing.T, d driver, recorded *recording, most, percentage int, more setting) *world {
	t.Helper()
	group := nodeGroup("general", most, small, large)
	group["spec"].(object)["spotConfig"] = object{"enabled": true, "maxSpotPercentage": percentage}
	more.nodeGroups = []object{group}
	more.vpsie = spotOffers
	more.expander = true
	return more.world(t, d, recorded)
}

// interrupt gives notice of an interruption of the Node, and returns the time.
func (w *world) interrupt(node string, within time.Duration) time.Time {
	w.t.Helper()
	at := time.Now()
	deadline := at.Add(within).UTC().Format(time.RFC3339)
	w.cluster.patch(w.t, "/api/v1/nodes/"+node, object{"metadata": object{"annotations": object{interruption: deadline}}})
	return at
}

// isSpot returns true iff the Node is a managed spot Node.
func isSpot(node core.Node) bool { return isOurs(node) && node.Labels[capacityType] == "spot" }

// awaitReplacements waits until this number of machines replace others, and returns the seconds since then.
func (w *world) awaitReplacements(number int, since time.Time) float64 {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%d replacements are recorded", number), 30*time.Second, func() error {
		records, err := w.cluster.records()
		if err != nil {
			return err
		}
		found := 0
		for _, record := range records {
			if record.Spec.Replaces != "" {
				found++
			}
		}
		if found != number {
			return fmt.Errorf("%d", found)
		}
		return nil
	})
	return time.Since(since).Seconds()
}

// podsOn returns the number of pods by Node, without terminating ones.
func (w *world) podsOn() (map[string]int, error) {
	pods, err := w.cluster.client.CoreV1().Pods("default").List(background, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
			found[pod.Spec.NodeName]++
		}
	}
	return found, nil
}

// awaitMoved waits until no pod is on these Nodes. It returns true iff no pod left them before as many other Nodes were
// ready.
func (w *world) awaitMoved(victims []string, deadline time.Duration) bool {
	w.t.Helper()
	before, err := w.podsOn()
	if err != nil {
		w.t.Fatal(err)
	}
	inTime := true
	await(w.t, "the pods have moved", deadline, func() error {
		now, err := w.podsOn()
		if err != nil {
			return err
		}
		nodes, err := w.nodes(func(node core.Node) bool {
			return isOurs(node) && ready(node) && !slices.Contains(victims, node.Name)
		})
		if err != nil {
			return err
		}
		left := 0
		for _, victim := range victims {
			left += now[victim]
			if now[victim] < before[victim] && len(nodes) == 0 {
				inTime = false
			}
		}
		if left > 0 {
			return fmt.Errorf("%d pods are left", left)
		}
		return nil
	})
	return inTime
}

// spotNotice is scenario q: a notice that is longer than the boot. The replacement is ready before the first pod moves,
// and no further VM is created.
func spotNotice(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	victim := w.machine()
	w.checkSpot(1)
	at := w.interrupt(victim.Status.Hostname, 90*time.Second)
	requested := w.awaitReplacements(1, at)
	if !w.awaitMoved([]string{victim.Status.Hostname}, 90*time.Second) {
		t.Error("a pod moved before the replacement was ready")
	}
	moved := time.Since(at).Seconds()
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	hold(t, "no further VM is created", holdTime(t), func() error { return w.checkSettled(2, 0, 1) })
	w.checkCreated(2)
	w.cluster.awaitEvent(t, "NodeGroup", "general", "gave notice")
	w.note("replacement recorded after %.1f s, pods moved after %.0f s", requested, moved)
	w.done(d, "q. notice longer than the boot")
}

// holdTime returns E2E_HOLD, such as 10m, or else 30 seconds.
func holdTime(t *testing.T) time.Duration {
	t.Helper()
	given := os.Getenv("E2E_HOLD")
	if given == "" {
		return 30 * time.Second
	}
	parsed, err := time.ParseDuration(given)
	if err != nil {
		t.Fatalf("E2E_HOLD: %v", err)
	}
	return parsed
}

// spotShortNotice is scenario r: a notice that is shorter than the boot, while the pool of the replacement has no other Node.
// The pods are pending until the replacement is ready. It is hidden, so Cluster Autoscaler requests a node of its pool, and
// thereby takes it over. No further VM is created.
func spotShortNotice(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.vpsie.must(t, "PUT", "/times", object{"listed": "1s", "boot": "45s", "deletion": "1s"})
	victim := w.machine()
	at := w.interrupt(victim.Status.Hostname, 25*time.Second)
	requested := w.awaitReplacements(1, at)
	w.awaitMoved([]string{victim.Status.Hostname}, 40*time.Second)
	drained := time.Since(at).Seconds()
	if drained > 25 {
		t.Errorf("the pods were on the Node for %.0f s, want 25 at most", drained)
	}
	w.awaitGone(victim, func() error { return nil })
	check := func() int {
		further := w.countCreated() - 2
		if further != 0 {
			t.Errorf("%d further VMs were created", further)
		}
		return further
	}
	w.countNodes(2)
	further := check()
	w.awaitSettled(2, 0, 1, 3*time.Minute)
	hold(t, "no further VM is created", 30*time.Second, func() error { return w.checkSettled(2, 0, 1) })
	// The model can delete a node and the destination of its pods in one loop.
	if d.real() {
		check()
	}
	w.note("replacement recorded after %.1f s, pods evicted after %.0f s, %d further VMs", requested, drained, further)
	w.done(d, "r. notice shorter than the boot")
}

// spotTakenOver is scenario z: a notice that is shorter than the boot, while the pool of the replacement has another Node.
// No further VM is created: releases from 1.36 on take the replacement over.
func spotTakenOver(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	// Only the large offer has room for the first pod, and no room for another one beside it.
	w.deploy("big", 1, "3500m", "500Mi")
	w.awaitSettled(1, 0, 1, 2*time.Minute)
	first := w.machine()
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(3, 0, 2, 2*time.Minute)
	w.vpsie.must(t, "PUT", "/times", object{"listed": "1s", "boot": "45s", "deletion": "1s"})
	victim := w.machineBeside(first)
	at := w.interrupt(victim.Status.Hostname, 25*time.Second)
	w.awaitReplacements(1, at)
	w.awaitMoved([]string{victim.Status.Hostname}, 40*time.Second)
	w.awaitSettled(3, 0, 2, 3*time.Minute)
	hold(t, "no further VM is created", 30*time.Second, func() error { return w.checkSettled(3, 0, 2) })
	w.checkCreated(3)
	w.done(d, "z. replacement taken over")
}

// machineBeside returns the other of two machines.
func (w *world) machineBeside(first record) record {
	w.t.Helper()
	records, err := w.cluster.records()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, record := range records {
		if record.Status.Hostname != first.Status.Hostname {
			return record
		}
	}
	w.t.Fatal("there is no other machine")
	return record{}
}

// spotGone is scenario s: a spot VM is gone without a notice.
func spotGone(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	victim := w.machine()
	w.vpsie.must(t, "DELETE", "/vms/"+victim.Status.VM, nil)
	w.cluster.awaitGoneNode(t, victim.Status.Hostname)
	w.awaitSettled(2, 0, 1, 3*time.Minute)
	w.checkCreated(2)
	w.cluster.awaitEvent(t, "NodeGroup", "general", "was interrupted")
	w.done(d, "s. no notice")
}

// spotStorm is scenario t: a third of 30 Nodes get notices at once.
func spotStorm(t *testing.T, d driver, recorded *recording) {
	const pods = 60
	w := spotWorld(t, d, recorded, 50, 100, setting{})
	w.deploy("web", pods, "1500m", "500Mi")
	w.awaitSettled(pods, 0, w.countNodes(pods), 5*time.Minute)
	nodes, err := w.nodes(isOurs)
	if err != nil {
		t.Fatal(err)
	}
	size := len(nodes)
	victims := []string{}
	for _, node := range nodes[:(size+2)/3] {
		victims = append(victims, node.Name)
	}
	at := time.Now()
	for _, victim := range victims {
		w.interrupt(victim, 2*time.Minute)
	}
	w.awaitMoved(victims, 2*time.Minute)
	moved := time.Since(at).Seconds()
	await(t, "all pods run", 3*time.Minute, func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != pods || waiting != 0) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	})
	w.note("%d of %d Nodes; pods moved after %.0f s; %d VMs created for them", len(victims), size, moved, w.countCreated()-size)
	if extra := w.countCreated() - size - len(victims); extra > 0 {
		t.Errorf("%d VMs were created beyond one for each notice", extra)
	}
	w.done(d, "t. storm")
}

// spotSoldOut is scenario u: VPSie has no spot machines while pods wait. Cluster Autoscaler adds on-demand machines in the
// loop after the refusal.
func spotSoldOut(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	for _, offer := range []string{small, large} {
		w.vpsie.must(t, "PUT", "/capacity", object{"offer": offer, "capacityType": "spot", "limit": 0})
	}
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 3*time.Minute)
	w.checkSpot(0)
	var refused, first time.Time
	waited := 0
	for _, e := range w.proxy.allExchanges() {
		request := parse(e.request)
		switch {
		case e.rpc == "NodeGroupIncreaseSize" && strings.HasSuffix(request.text(2), "/spot"):
			refused, waited = e.at, 0
		case e.rpc == "Refresh" && !refused.IsZero() && first.IsZero():
			waited++
		case e.rpc == "NodeGroupIncreaseSize" && first.IsZero():
			first = e.at
		}
	}
	if refused.IsZero() || first.IsZero() {
		t.Fatalf("spot request %v, on-demand request %v", refused, first)
	}
	condition := w.cluster.conditionOf(t, "general", "SpotAvailable")
	if condition != "False OnDemandFallback" {
		t.Errorf("SpotAvailable is %s", condition)
	}
	w.note("on-demand request %.0f s and %d loops after the last spot request", first.Sub(refused).Seconds(), waited)
	w.done(d, "u. spot sold out")
}

// spotShare is scenario v: the maximum share holds during scale-ups of two Deployments and scale-down.
func spotShare(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 12, 50, setting{})
	check := func() error {
		groups, err := w.provider.pools(t)
		if err != nil {
			return nil
		}
		spot, all := 0, 0
		for id, group := range groups {
			all += group.target
			if strings.HasSuffix(id, "/spot") {
				spot += group.target
			}
		}
		if spot*2 > all {
			return fatal{fmt.Errorf("%d of %d machines are spot", spot, all)}
		}
		return nil
	}
	// The first machines are on demand: a spot pool grows beside on-demand machines only.
	awaitPods := func(pods int) {
		await(t, "all pods run", 3*time.Minute, func() error {
			if err := check(); err != nil {
				return err
			}
			running, waiting, err := w.pods()
			if err == nil && (running != pods || waiting != 0) {
				err = fmt.Errorf("%d run, %d wait", running, waiting)
			}
			return err
		})
	}
	w.deploy("web", 2, "1500m", "500Mi")
	awaitPods(2)
	w.deploy("batch", 4, "1500m", "500Mi")
	w.deploy("more", 4, "1500m", "500Mi")
	awaitPods(10)
	spot, err := w.nodes(isSpot)
	if err != nil {
		t.Fatal(err)
	}
	if len(spot) == 0 {
		t.Error("no spot Node")
	}
	w.note("%d spot Nodes", len(spot))
	w.scale("more", 0)
	w.scale("batch", 0)
	w.scale("web", 0)
	await(t, "all Nodes are removed", 4*time.Minute, func() error {
		if err := check(); err != nil {
			return err
		}
		return w.checkSettled(0, 0, 0)
	})
	w.done(d, "v. share")
}

// spotLeaderKilled is scenario w: the leader is killed between the notice and the drain. If it was killed between the record of
// the request and the request, the next one waits a minute until the request counts as lost.
func spotLeaderKilled(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.vpsie.must(t, "PUT", "/times", object{"listed": "1s", "boot": "20s", "deletion": "1s"})
	victim := w.machine()
	at := w.interrupt(victim.Status.Hostname, 3*time.Minute)
	w.awaitReplacements(1, at)
	w.provider.killLeader(t)
	if !w.awaitMoved([]string{victim.Status.Hostname}, 190*time.Second) {
		t.Error("a pod moved before the replacement was ready")
	}
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	hold(t, "no further VM is created", 10*time.Second, func() error { return w.checkSettled(2, 0, 1) })
	w.checkCreated(2)
	w.done(d, "w. leader killed after a notice")
}

// spotBudget is scenario x: a budget allows no eviction. The pods are deleted in time.
func spotBudget(t *testing.T, d driver, recorded *recording) {
	w := spotWorld(t, d, recorded, 4, 100, setting{})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.createBudget("web", 2)
	victim := w.machine()
	at := w.interrupt(victim.Status.Hostname, 40*time.Second)
	hold(t, "the budget holds", 20*time.Second, func() error {
		running, _, err := w.pods()
		if err == nil && running != 2 {
			err = fmt.Errorf("%d pods run", running)
		}
		return err
	})
	w.awaitMoved([]string{victim.Status.Hostname}, time.Minute)
	moved := time.Since(at).Seconds()
	if moved > 45 {
		t.Errorf("the pods were on the Node for %.0f s, want 40", moved)
	}
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.checkCreated(2)
	w.note("pods deleted after %.0f s", moved)
	w.done(d, "x. budget that allows nothing")
}

// spotSources is scenario y: notices of the webhook, of VPSie's listing and of the command `interrupt` are handled like those
// of Nodes.
func spotSources(t *testing.T, d driver, recorded *recording) {
	const key = "0123456789abcdef0123456789abcdef"
	file := filepath.Join(scratch(t), "key")
	write(t, file, []byte(key))
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	flags := []string{"--notice-webhook-listen=" + address, "--notice-webhook-key-file=" + file}
	w := spotWorld(t, d, recorded, 4, 100, setting{provider: flags})
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	sources := []struct {
		name   string
		notify func(victim record)
	}{
		{"webhook", func(victim record) { postNotice(t, address, key, victim.Status.Hostname) }},
		{"vpsie", func(victim record) {
			w.vpsie.must(t, "POST", "/vms/"+victim.Status.VM+"/interrupt", object{"notice": "90s"})
		}},
		{"node", func(victim record) {
			preview := w.runInterrupt("--dry-run", victim.Status.Hostname)
			if !strings.Contains(preview, "replacement: one machine of pool general/") || !strings.Contains(preview, "default/web-") {
				t.Errorf("the dry run shows:\n%s", preview)
			}
			w.runInterrupt("--in=90s", victim.Status.Hostname)
		}},
	}
	for number, source := range sources {
		victim := w.machine()
		at := time.Now()
		source.notify(victim)
		requested := w.awaitReplacements(1, at)
		if !w.awaitMoved([]string{victim.Status.Hostname}, 90*time.Second) {
			t.Errorf("%s: a pod moved before the replacement was ready", source.name)
		}
		w.awaitSettled(2, 0, 1, 2*time.Minute)
		w.checkCreated(2 + number)
		w.note("%s: replacement recorded after %.1f s", source.name, requested)
	}
	w.done(d, "y. sources of notices")
}

// postNotice sends a signed notice to the webhook.
func postNotice(t *testing.T, address, key, node string) {
	t.Helper()
	now := time.Now().UTC()
	body := fmt.Sprintf(`{"node":%q,"sentAt":%q,"deadline":%q}`, node, now.Format(time.RFC3339Nano),
		now.Add(90*time.Second).Format(time.RFC3339))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(body))
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/notices", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if text, _ := io.ReadAll(reply.Body); reply.StatusCode != http.StatusOK {
		t.Fatalf("the webhook replied %s: %s", reply.Status, text)
	}
}

// runInterrupt runs the command `interrupt` and returns its output.
func (w *world) runInterrupt(arguments ...string) string {
	w.t.Helper()
	leader, err := w.provider.leader()
	if err != nil {
		w.t.Fatal(err)
	}
	arguments = append([]string{
		"interrupt", "--url=http://" + leader.http, "--kubeconfig=" + w.cluster.kubeconfigOf("admin"),
	}, arguments...)
	output, err := exec.Command(os.Getenv("E2E_VPSIE_AUTOSCALER"), arguments...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("interrupt: %v: %s", err, output)
	}
	return string(output)
}

// checkSpot checks the number of spot Nodes.
func (w *world) checkSpot(want int) {
	w.t.Helper()
	nodes, err := w.nodes(isSpot)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(nodes) != want {
		w.t.Errorf("%d spot Nodes, want %d", len(nodes), want)
	}
}

// countNodes waits until this number of pods run, and returns the number of Nodes.
func (w *world) countNodes(pods int) int {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%d pods run", pods), 5*time.Minute, func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != pods || waiting != 0) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	})
	nodes, err := w.nodes(isOurs)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(nodes)
}

// awaitGoneNode waits until the Node is deleted.
func (c *controlPlane) awaitGoneNode(t *testing.T, name string) {
	t.Helper()
	await(t, "the Node of the gone VM is deleted", 5*time.Minute, func() error {
		there, err := c.get("/api/v1/nodes/"+name, &object{})
		if err == nil && there {
			err = errors.New("it exists")
		}
		return err
	})
}

// conditionOf returns status and reason of a condition of a NodeGroup.
func (c *controlPlane) conditionOf(t *testing.T, group, kind string) string {
	t.Helper()
	groups, err := c.nodeGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range groups {
		for _, condition := range found.Status.Conditions {
			if found.Metadata.Name == group && condition.Type == kind {
				return condition.Status + " " + condition.Reason
			}
		}
	}
	return "missing"
}
