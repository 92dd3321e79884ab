package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"
)

// balancing are the flags of Cluster Autoscaler that split a scale-up over similar pools. The model has no such function:
// there the maxima of the pools decide alone.
func balancing(d driver) []string {
	if !d.real() {
		return nil
	}
	return []string{"--balance-similar-node-groups", "--balancing-ignore-label=autoscaler.vpsie.com/datacenter"}
}

// awaitIn waits until this number of VMs is in each datacenter.
func (w *world) awaitIn(ams, fra int, deadline time.Duration) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%d VMs are in ams1 and %d in fra1", ams, fra), deadline, func() error {
		counted, err := w.countIn()
		if err == nil && (counted["ams1"] != ams || counted["fra1"] != fra) {
			err = fmt.Errorf("%v", counted)
		}
		return err
	})
}

// datacenterStatus is the state of a datacenter in the status of a NodeGroup.
type datacenterStatus struct {
	Datacenter                               string `json:"datacenterID"`
	Machines, ReadyNodes, Minimum, Shortfall int
	Health, Reason                           string
}

func (w *world) datacenterStatuses(group string) (map[string]datacenterStatus, error) {
	var found struct {
		Status struct{ Datacenters []datacenterStatus }
	}
	_, err := w.cluster.get(objects+"/nodegroups/"+group, &found)
	statuses := map[string]datacenterStatus{}
	for _, status := range found.Status.Datacenters {
		statuses[status.Datacenter] = status
	}
	return statuses, err
}

// awaitHealth waits until the circuit breaker of a datacenter has this state.
func (w *world) awaitHealth(datacenter, health string, deadline time.Duration) datacenterStatus {
	w.t.Helper()
	var status datacenterStatus
	await(w.t, fmt.Sprintf("the circuit breaker of %s is %s", datacenter, health), deadline, func() error {
		statuses, err := w.datacenterStatuses("general")
		status = statuses[datacenter]
		if err == nil && status.Health != health {
			err = fmt.Errorf("%+v", statuses)
		}
		return err
	})
	return status
}

// failover returns the time and the loops from the first request in one datacenter after the first RPCs, until this number
// of machines was requested in the other one.
func (w *world) failover(from, to string, machines, after int) (seconds float64, runs int) {
	w.t.Helper()
	var first *increase
	for _, i := range w.increases(after) {
		switch {
		case first == nil && i.in(from):
			first = &i
		case i.in(to):
			if machines -= i.delta; machines <= 0 && first != nil {
				return i.at.Sub(first.at).Seconds(), i.loop - first.loop
			}
		}
	}
	w.t.Fatalf("no failover from %s to %s: %+v", from, to, w.increases(after))
	return 0, 0
}

// balancedDatacenters distributes machines evenly, also if one datacenter has no capacity.
func balancedDatacenters(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{autoscaler: balancing(d)},
		vmGroup("general", 10, inDatacenters(nil), small))

	w.part("equal numbers", func() {
		w.deploy("web", 10, "1500m", "500Mi")
		w.awaitSettled(10, 0, 10, 3*time.Minute)
		w.awaitIn(5, 5, time.Second)
		w.checkIncreases(0)
		w.done(d, "11. balanced")
	})

	w.part("one below the maximum", func() {
		w.cluster.patch(w.t, objects+"/nodegroups/general", object{"spec": object{"maxNodes": 11}})
		before := len(w.proxy.allExchanges())
		w.proxy.awaitLoops(w.t, 2)
		w.scale("web", 14)
		w.awaitSettled(11, 3, 11, 2*time.Minute)
		hold(w.t, "no further request", 5*time.Second, func() error { return w.checkSettled(11, 3, 11) })
		w.checkIncreases(before)
		w.checkCreated(11)
		added := 0
		for _, i := range w.increases(before) {
			added += i.delta
		}
		if added != 1 {
			w.t.Errorf("%d machines were requested, want 1", added)
		}
	})

	w.part("quota", func() {
		w.vpsie.must(w.t, "PUT", "/quota", object{"vms": 11})
		w.cluster.patch(w.t, objects+"/nodegroups/general", object{"spec": object{"maxNodes": 14}})
		before := len(w.proxy.allExchanges())
		await(w.t, "machines are requested", time.Minute, func() error {
			if len(w.increases(before)) == 0 {
				return errors.New("none")
			}
			return nil
		})
		hold(w.t, "no datacenter is suspect", 10*time.Second, func() error {
			statuses, err := w.datacenterStatuses("general")
			for _, status := range statuses {
				if status.Health != "closed" {
					err = errors.Join(err, fmt.Errorf("%+v", status))
				}
			}
			return err
		})
		w.checkCreated(11)
		w.vpsie.must(w.t, "PUT", "/quota", object{})
		w.awaitEmpty("web", 3*time.Minute)
		w.done(d, "20. quota")
	})

	w.part("datacenter without capacity", func() {
		// The loops of Cluster Autoscaler's backoff after the quota end with its pools.
		w.cluster.delete(w.t, objects+"/nodegroups/general")
		w.awaitDeletion("general")
		w.vpsie.must(w.t, "PUT", "/capacity", object{"offer": small, "datacenter": "fra1", "limit": 0})
		w.cluster.must(w.t, "POST", objects+"/nodegroups", w.cluster.withEndpoint(w.t, vmGroup("second", 10, inDatacenters(nil), small)))
		before, created := len(w.proxy.allExchanges()), w.countCreated()
		w.scale("web", 10)
		w.awaitSettled(10, 0, 10, 3*time.Minute)
		w.awaitIn(10, 0, time.Second)
		seconds, runs := w.failover("fra1", "ams1", 10, before)
		w.note("all requested elsewhere %.1f s and %d loops after the first refused request", seconds, runs)
		w.checkCreated(created + 10)
		w.done(d, "11. one datacenter refused")
	})
}

// weightedDatacenters distributes machines by weights, in two bursts.
func weightedDatacenters(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{expander: true}, vmGroup("general", 20, inDatacenters(object{
		"distributionStrategy": "weighted", "weightedDistribution": object{"ams1": 70, "fra1": 30},
	}), small))
	for burst, want := range []map[string]int{{"ams1": 7, "fra1": 3}, {"ams1": 14, "fra1": 6}} {
		w.part(fmt.Sprintf("%d machines", 10*(burst+1)), func() {
			before := len(w.proxy.allExchanges())
			if burst == 0 {
				w.deploy("web", 10, "1500m", "500Mi")
			} else {
				w.scale("web", 20)
			}
			pods := 10 * (burst + 1)
			w.awaitSettled(pods, 0, pods, 4*time.Minute)
			counted, err := w.countIn()
			if err != nil {
				w.t.Fatal(err)
			}
			for datacenter, number := range want {
				if counted[datacenter] < number-1 || counted[datacenter] > number+1 {
					w.t.Errorf("%d machines are in %s, want %d", counted[datacenter], datacenter, number)
				}
			}
			w.checkIncreases(before)
			requests := w.increases(before)
			w.note("%d/%d after a burst of 10, in %d requests over %d loops", counted["ams1"], counted["fra1"], len(requests),
				requests[len(requests)-1].loop-requests[0].loop+1)
			w.done(d, "12. weighted")
		})
	}
	w.part("rows of one datacenter are missing", func() {
		counted, err := w.countIn()
		if err != nil {
			w.t.Fatal(err)
		}
		// There is headroom, which the datacenter must not get.
		w.cluster.patch(w.t, objects+"/nodegroups/general", object{"spec": object{"maxNodes": 24}})
		w.checkMissingRows("fra1", counted["fra1"], 20)
		w.checkCreated(20)
		w.done(d, "16. rows missing")
	})
}

// backupDatacenter uses the primary datacenter, other offers there, and then the backup.
func backupDatacenter(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{}, vmGroup("general", 20, inDatacenters(object{
		"distributionStrategy": "primary-backup", "primaryDatacenter": "ams1",
	}), small, large, huge))
	capacity := func(offer string, limit any) {
		w.vpsie.must(w.t, "PUT", "/capacity", object{"offer": offer, "datacenter": "ams1", "limit": limit})
	}

	w.part("another offer in the primary", func() {
		capacity(small, 0)
		w.deploy("web", 2, "1500m", "500Mi")
		w.awaitRunning(2, 3*time.Minute)
		counted, err := w.countIn()
		if err != nil || counted["fra1"] != 0 || counted["ams1"] == 0 {
			w.t.Errorf("VMs: %v %v", counted, err)
		}
		w.done(d, "13. one offer refused")
	})

	w.part("backup", func() {
		capacity(large, 0)
		capacity(huge, 0)
		before := len(w.proxy.allExchanges())
		w.deploy("batch", 4, "1500m", "500Mi")
		at := time.Now()
		w.awaitRunning(6, 4*time.Minute)
		running := time.Since(at).Seconds()
		seconds, runs := w.failover("ams1", "fra1", 1, before)
		w.note("first request in the backup %.1f s and %d loops after the first refused one; pods ran after %.0f s", seconds, runs, running)
		w.awaitConditionText("general", "DatacentersHealthy", "ams1", 30*time.Second)
		for _, i := range w.increases(before) {
			if i.in("fra1") && i.code != "OK" {
				w.t.Errorf("the backup refused: %+v", i)
			}
		}
		w.done(d, "14. primary refuses all offers")
	})

	if !long() {
		return
	}
	w.part("return", func() {
		for _, offer := range []string{small, large, huge} {
			capacity(offer, nil)
		}
		w.awaitHealth("ams1", "half-open", 6*time.Minute)
		before := len(w.proxy.allExchanges())
		created, err := w.countIn()
		if err != nil {
			w.t.Fatal(err)
		}
		w.deploy("more", 4, "1500m", "500Mi")
		w.awaitRunning(10, 4*time.Minute)
		w.awaitHealth("ams1", "closed", time.Minute)
		requests := w.increases(before)
		first := slices.IndexFunc(requests, func(i increase) bool { return i.in("ams1") })
		if first < 0 || requests[first].delta != 1 {
			w.t.Errorf("the first request in ams1 is not for one machine: %+v", requests)
		}
		now, err := w.countIn()
		w.note("VMs before %v, after %v", created, now)
		if err != nil || now["ams1"] <= created["ams1"] {
			w.t.Errorf("no machine was added in ams1: %v", err)
		}
		w.done(d, "18. return")
	})
}

// silentDatacenter: the primary accepts requests and shows no VM.
func silentDatacenter(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{
		provider:   []string{"--create-timeout=20s"},
		autoscaler: []string{"--initial-node-group-backoff-duration=2s", "--max-node-group-backoff-duration=5s"},
	}, vmGroup("general", 20, inDatacenters(object{
		"distributionStrategy": "primary-backup", "primaryDatacenter": "ams1",
	}), small, large))

	w.part("requests without a VM", func() {
		w.datacenter("ams1", object{"creations": "hidden"})
		before := len(w.proxy.allExchanges())
		at := time.Now()
		w.deploy("web", 3, "1500m", "500Mi")
		status := w.awaitHealth("ams1", "open", 3*time.Minute)
		w.note("suspect after %.0f s (%s)", time.Since(at).Seconds(), status.Reason)
		w.awaitRunning(3, 3*time.Minute)
		seconds, runs := w.failover("ams1", "fra1", 1, before)
		w.note("first request in the backup after %.0f s, %d loops; pods ran after %.0f s", seconds, runs, time.Since(at).Seconds())
		if counted, err := w.countIn(); err != nil || counted["fra1"] != 3 {
			w.t.Errorf("VMs: %v %v", counted, err)
		}
		w.done(d, "15. accepted in silence")
	})

	w.part("late VMs are deleted", func() {
		w.datacenter("ams1", object{})
		await(w.t, "no VM is in ams1", 3*time.Minute, func() error {
			counted, err := w.countIn()
			machines, _ := w.vpsie.workers()
			for _, machine := range machines {
				if machine.Datacenter == "ams1" {
					err = errors.Join(err, fmt.Errorf("%s is %s, its boot %+v", machine.Hostname, machine.Phase, machine.Plain.Boot))
				}
			}
			if err == nil && counted["ams1"] != 0 {
				err = fmt.Errorf("%v", counted)
			}
			return err
		})
		w.awaitSettled(3, 0, 3, time.Minute)
		for _, machine := range w.allVMs() {
			if _, joined := w.witness.firstVersion(machine.Hostname); joined && machine.Datacenter == "ams1" {
				w.t.Errorf("the late VM %s has joined", machine.Hostname)
			}
		}
		w.awaitNoLeftovers(30 * time.Second)
	})
}

// checkMissingRows: all rows of a datacenter are missing for a while.
func (w *world) checkMissingRows(datacenter string, machines, all int) {
	before := len(w.proxy.allExchanges())
	w.datacenter(datacenter, object{"missingRows": 1})
	at := time.Now()
	w.awaitHealth(datacenter, "open", time.Minute)
	w.note("suspect after %.0f s", time.Since(at).Seconds())
	hold(w.t, "nothing is deleted, and the sizes remain", missingTime(w.t), func() error {
		pools, err := w.provider.pools(w.t)
		if err != nil {
			return nil
		}
		target, headroom := 0, 0
		for id, pool := range pools {
			if (increase{pool: id}).in(datacenter) {
				target += pool.target
				headroom += max(pool.max-pool.target, 0)
			}
		}
		nodes, err := w.nodes(isOurs)
		if err != nil {
			return nil
		}
		if target != machines || headroom != 0 || len(nodes) != all {
			return fmt.Errorf("target %d, headroom %d, %d Nodes", target, headroom, len(nodes))
		}
		return nil
	})
	w.datacenter(datacenter, object{})
	w.awaitSettled(all, 0, all, time.Minute)
	if n := count(w.proxy.allExchanges()[before:])["NodeGroupDeleteNodes"]; n != 0 {
		w.t.Errorf("%d requests to delete nodes", n)
	}
}

// missingTime is the time for which rows are missing: E2E_MISSING, such as 10m; with E2E_LONG longer than the three minutes
// after which a VM that is not listed is gone.
func missingTime(t *testing.T) time.Duration {
	t.Helper()
	given := os.Getenv("E2E_MISSING")
	switch {
	case given == "" && long():
		return 200 * time.Second
	case given == "":
		return 40 * time.Second
	}
	parsed, err := time.ParseDuration(given)
	if err != nil {
		t.Fatalf("E2E_MISSING: %v", err)
	}
	return parsed
}

// datacenterMinimum keeps two machines in each datacenter, except in one that is suspect.
func datacenterMinimum(t *testing.T, d driver, recorded *recording) {
	onlyLong(t)
	if !d.real() {
		t.Skip("the model of Cluster Autoscaler does not enforce minimums")
	}
	w := selfManagedWorld(t, d, recorded, setting{
		provider: []string{"--create-timeout=20s"}, autoscaler: append(balancing(d), "--enforce-node-group-min-size",
			"--initial-node-group-backoff-duration=2s", "--max-node-group-backoff-duration=5s"),
	}, patched(vmGroup("general", 10, inDatacenters(object{"minNodesPerRegion": 2}), small), object{"spec": object{"minNodes": 4}}))
	w.awaitSettled(0, 0, 4, 3*time.Minute)
	w.awaitIn(2, 2, time.Second)
	w.datacenter("fra1", object{"creations": "lost", "inactive": true})
	w.awaitHealth("fra1", "open", 3*time.Minute)
	for _, machine := range w.allVMs() {
		if machine.Datacenter == "fra1" {
			w.vpsie.must(t, "DELETE", "/vms/"+machine.UUID, nil)
		}
	}
	await(t, "the status has the shortfall", 5*time.Minute, func() error {
		statuses, err := w.datacenterStatuses("general")
		if err == nil && (statuses["fra1"].Shortfall != 2 || statuses["ams1"].Machines < 2) {
			err = fmt.Errorf("%+v", statuses)
		}
		return err
	})
	made := w.countCreated()
	hold(t, "no machine is requested in fra1", 20*time.Second, func() error {
		if now := w.countCreated(); now != made {
			return fmt.Errorf("%d more", now-made)
		}
		return nil
	})
	w.datacenter("fra1", object{})
	await(t, "the minimum is restored", 8*time.Minute, func() error {
		counted, err := w.countIn()
		if err == nil && !maps.Equal(counted, map[string]int{"ams1": 2, "fra1": 2}) {
			err = fmt.Errorf("%v", counted)
		}
		return err
	})
	w.done(d, "19. minimum of each datacenter")
}
