package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

const (
	small = "s-2vcpu-4gb"
	large = "s-4vcpu-8gb"
)

// scenarios has all scenarios. The first `common` ones also run with the model of an older release.
var scenarios = []struct {
	name string
	run  func(*testing.T, driver, *recording)
}{
	{"growth and shrinkage", growthAndShrinkage},
	{"shortage", shortage},
	{"leader killed", leaderKilled},
	{"VM deleted", vmDeleted},
	{"VPSie down", vpsieDown},
	{"Node deleted", nodeDeleted},
	{"NodeGroups edited", nodeGroupsEdited},
	{"VPSieNode deleted", machineDeleted},
	{"provider killed", providerKilled},
	{"foreign nodes", foreignNodes},
	{"records in files", recordsInFiles},
	{"API server killed", apiServerKilled},
	{"Secret changed", secretChanged},
	{"rolling restart", rollingRestart},
	{"cheapest set", cheapestSet},
	{"price expander", priceExpander},
	{"spot notice", spotNotice},
	{"spot short notice", spotShortNotice},
	{"spot VM gone", spotGone},
	{"spot storm", spotStorm},
	{"spot sold out", spotSoldOut},
	{"spot share", spotShare},
	{"spot leader killed", spotLeaderKilled},
	{"spot budget", spotBudget},
	{"spot sources", spotSources},
	{"spot taken over", spotTakenOver},
	{"VMs join", machinesJoin},
	{"VM requests killed", killedWhileRequesting},
	{"VM requests unclear", requestsUnclear},
	{"VM payloads bad", badPayloads},
	{"VM payload never joins", payloadNeverJoins},
	{"datacenters balanced", balancedDatacenters},
	{"datacenters weighted", weightedDatacenters},
	{"datacenters primary and backup", backupDatacenter},
	{"datacenters silent", silentDatacenter},
	{"datacenters minimum", datacenterMinimum},
	{"datacenters not Ready", datacenterNotReady},
}

const common = 3

// TestRealLoop runs every scenario with every driver, except with the model of an older release.
func TestRealLoop(t *testing.T) {
	for _, d := range drivers(t) {
		t.Run(d.name, func(t *testing.T) {
			recorded := newRecording()
			t.Cleanup(func() {
				if folder := os.Getenv("E2E_RECORD"); folder != "" && d.real() && !t.Failed() {
					recorded.save(t, folder, d.minor)
				}
			})
			chosen := scenarios
			if !d.real() && d.minor != newest {
				chosen = scenarios[:common]
			}
			for _, scenario := range chosen {
				t.Run(scenario.name, func(t *testing.T) {
					if strings.HasPrefix(scenario.name, "datacenters") && os.Getenv("E2E_DATACENTERS") == "" {
						t.Skip("E2E_DATACENTERS is not set")
					}
					t.Parallel()
					scenario.run(t, d, recorded)
				})
			}
		})
	}
}

// growthAndShrinkage is scenarios a and b: from 0 to the maximum of a NodeGroup, and back to 0.
func growthAndShrinkage(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 3, small))
	w.recordLoop(recorded, "idle", 0)
	w.deploy("web", 8, "800m", "500Mi")
	// Two pods fit on a node; the maximum is three nodes.
	w.awaitSettled(6, 2, 3, 2*time.Minute)
	w.recordLoop(recorded, "full", 3)
	hold(t, "the maximum of the NodeGroup", 5*time.Second, func() error { return w.checkSettled(6, 2, 3) })
	w.scale("web", 6)
	w.awaitSettled(6, 0, 3, time.Minute)
	w.recordLoop(recorded, "busy", 3)
	w.done(d, "a. 0 to n")

	w.began = time.Now()
	before := len(w.proxy.allExchanges())
	w.scale("web", 0)
	w.awaitSettled(0, 0, 0, 2*time.Minute)
	deleted := count(w.proxy.allExchanges()[before:])["NodeGroupDeleteNodes"]
	if deleted != 3 {
		t.Errorf("%d nodes were deleted, want 3", deleted)
	}
	w.done(d, "b. n to 0")
}

// recordsInFiles runs without --store=kubernetes: one process, with NodeGroups and records in files.
func recordsInFiles(t *testing.T, d driver, recorded *recording) {
	w := setting{local: true, nodeGroups: []object{nodeGroup("general", 3, small)}}.world(t, d, recorded)
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitRPC("NodeGroupIncreaseSize", 0)
	w.provider.kill()
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.scale("web", 0)
	w.awaitSettled(0, 0, 0, 2*time.Minute)
	w.checkCreated(2)
	w.done(d, "records in files")
}

// shortage is scenario c: VPSie has no capacity for the best pool, so the pods run on another one.
func shortage(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 4, small, large))
	w.vpsie.must(t, "PUT", "/capacity", map[string]any{"offer": small, "limit": 0})
	w.deploy("web", 2, "800m", "1500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	nodes, err := w.nodes(isOurs)
	if err != nil {
		t.Fatal(err)
	}
	if offer := nodes[0].Labels["node.kubernetes.io/instance-type"]; offer != large {
		t.Errorf("the pods run on %s, want %s", offer, large)
	}
	w.cluster.awaitEvent(t, "NodeGroup", "general", "out of stock")
	increased, cleaned := map[string]int{}, map[string]int{}
	for _, e := range w.proxy.allExchanges() {
		request := parse(e.request)
		switch e.rpc {
		case "NodeGroupIncreaseSize":
			increased[request.text(2)] += request.number(1)
		case "NodeGroupDeleteNodes":
			for _, node := range request.messages(1) {
				if strings.HasPrefix(node.text(1), "vpsie://machine/") {
					cleaned[node.text(1)]++
				}
			}
		}
	}
	failed := 0
	for id, delta := range increased {
		if strings.Contains(id, small) {
			failed += delta
		}
	}
	if failed == 0 {
		t.Errorf("no increase of the pool without capacity: %v", increased)
	}
	if len(cleaned) != failed || slices.ContainsFunc(slices.Collect(maps.Values(cleaned)), func(n int) bool { return n != 1 }) {
		t.Errorf("%d machines failed; they were cleaned up as %v", failed, cleaned)
	}
	w.checkCreated(1)
	w.done(d, "c. shortage")
}

// providerKilled is scenario d: the provider is killed right after it accepted an increase, while the nodes
// boot, right after it accepted deletions, and during the deletions.
func providerKilled(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 4, small))
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitRPC("NodeGroupIncreaseSize", 0)
	w.provider.kill()
	// The provider waits a minute before it repeats a recorded request that may not have been sent.
	await(t, "a VM boots", 2*time.Minute, func() error {
		machines, err := w.vpsie.workers()
		if err != nil {
			return err
		}
		if len(machines) == 0 {
			return errors.New("no VM was requested")
		}
		return nil
	})
	w.provider.kill()
	w.awaitSettled(4, 0, 2, 3*time.Minute)
	hold(t, "no further VM is created", 8*time.Second, func() error { return w.checkSettled(4, 0, 2) })
	w.checkCreated(2)

	before := len(w.proxy.allExchanges())
	w.scale("web", 0)
	w.awaitRPC("NodeGroupDeleteNodes", before)
	w.provider.kill()
	await(t, "a VM is being deleted", 30*time.Second, func() error {
		machines, err := w.vpsie.workers()
		if err != nil {
			return err
		}
		for _, machine := range machines {
			if machine.Phase == "running" {
				continue
			}
			return nil
		}
		if len(machines) < 2 {
			return nil
		}
		return errors.New("none")
	})
	w.provider.kill()
	w.awaitSettled(0, 0, 0, 3*time.Minute)
	hold(t, "no deleted VM returns", 8*time.Second, func() error { return w.checkSettled(0, 0, 0) })
	w.checkCreated(2)
	w.done(d, "d. provider killed")
}

// vpsieDown is scenario e: VPSie is down for two minutes while nodes are to be created and deleted.
func vpsieDown(t *testing.T, d driver, recorded *recording) {
	outage := 2 * time.Minute
	if text := os.Getenv("E2E_OUTAGE"); text != "" {
		parsed, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("E2E_OUTAGE: %v", err)
		}
		outage = parsed
		fmt.Printf("E2E_OUTAGE: VPSie is down for %s, not for 2m0s\n", outage)
	}
	w := newWorld(t, d, recorded, nodeGroup("general", 4, small))
	w.deploy("web", 2, "800m", "500Mi")
	w.deploy("batch", 2, "800m", "500Mi")
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	before := len(w.proxy.allExchanges())
	w.vpsie.process.kill()
	w.deploy("more", 4, "800m", "500Mi")
	hold(t, "no RPC fails", outage, func() error { return checkLoop(w.proxy.allExchanges()[before:]) })
	during := loops(w.proxy.allExchanges()[before:])
	if least := int(outage.Seconds() / 15); len(during) < least {
		t.Errorf("%d runs of the loop in %s, want %d at least", len(during), outage, least)
	}
	w.vpsie.start(t)
	await(t, "all pods run", 3*time.Minute, func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != 8 || waiting != 0) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	})
	w.scale("web", 0)
	w.scale("batch", 0)
	w.scale("more", 0)
	w.awaitSettled(0, 0, 0, 3*time.Minute)
	if err := checkLoop(w.proxy.allExchanges()[before:]); err != nil {
		t.Error(err)
	}
	w.done(d, "e. VPSie down")
}

// foreignNodes is scenario f: a worker that a user adds remains unmanaged during scale-up and scale-down.
func foreignNodes(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 3, small))
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.vpsie.must(t, "POST", "/workers", map[string]any{"cluster": "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f"})
	await(t, "the worker of the user has joined", time.Minute, func() error {
		nodes, err := w.nodes(func(node core.Node) bool { return !isOurs(node) && ready(node) })
		if err != nil {
			return err
		}
		if len(nodes) != 3 {
			return fmt.Errorf("%d foreign nodes", len(nodes))
		}
		w.foreign = foreignState(nodes)
		return nil
	})
	w.scale("web", 4)
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.scale("web", 0)
	w.awaitSettled(0, 0, 0, 2*time.Minute)
	hold(t, "the foreign nodes remain", 6*time.Second, func() error { return w.checkSettled(0, 0, 0) })
	w.checkForeignNodes()
	for _, e := range w.proxy.allExchanges() {
		if e.rpc != "NodeGroupForNode" {
			continue
		}
		for _, node := range parse(e.request).messages(1) {
			_, foreign := w.foreign[node.text(2)]
			for _, group := range parse(e.reply).messages(1) {
				if foreign && group.text(1) != "" {
					t.Fatalf("%s is reported as a node of %s", node.text(2), group.text(1))
				}
			}
		}
	}
	w.done(d, "f. foreign nodes")
}

// awaitRPC waits for a successful RPC after the first ones.
func (w *world) awaitRPC(rpc string, after int) {
	w.t.Helper()
	await(w.t, rpc+" passes", time.Minute, func() error {
		for _, e := range w.proxy.allExchanges()[after:] {
			if e.rpc == rpc && e.code == "OK" {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// recordLoop records a run of the loop that equals the run before it.
func (w *world) recordLoop(recorded *recording, name string, nodes int) {
	w.t.Helper()
	var last map[string]int
	for range 10 {
		next := count(w.proxy.awaitLoops(w.t, 1)[0])
		if maps.Equal(last, next) {
			groups, err := w.provider.pools(w.t)
			if err != nil {
				w.t.Fatal(err)
			}
			recorded.mutex.Lock()
			defer recorded.mutex.Unlock()
			recorded.loops[name] = loopLine{name, len(groups), nodes, len(w.foreign), next}
			return
		}
		last = next
	}
	w.t.Errorf("no two consecutive runs of the loop are equal in phase %q: %v", name, last)
}
