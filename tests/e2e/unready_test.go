package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// datacenterNotReady: half of all Nodes are not Ready. Cluster Autoscaler stops all scaling by default, and an event says so.
// With a higher percentage, the other datacenter grows.
func datacenterNotReady(t *testing.T, d driver, recorded *recording) {
	if d.minor < "1.35" {
		t.Skip("before 1.35, Nodes count only after 15 minutes")
	}
	// With the two foreign Nodes, more than 45 percent of all Nodes are in the larger datacenter.
	const pods = 24
	// The model does not split a scale-up, so the numbers can differ.
	dead, other, lost := "fra1", "ams1", 0
	// The dead Nodes stay, and count before they are 15 minutes old.
	flags := append(balancing(d), "--scale-down-unready-time=20m", "--max-node-startup-time=30s")
	w := selfManagedWorld(t, d, recorded, setting{autoscaler: flags}, vmGroup("general", 40, inDatacenters(nil), small))

	w.part("by default", func() {
		w.deploy("web", pods, "1500m", "500Mi")
		w.awaitSettled(pods, 0, pods, 4*time.Minute)
		counted, err := w.countIn()
		if err != nil {
			w.t.Fatal(err)
		}
		if counted[other] > counted[dead] {
			dead, other = other, dead
		}
		lost = counted[dead]
		w.datacenter(dead, object{"outage": true})
		w.cluster.awaitEventWithin(w.t, "NodeGroup", "general", "--max-total-unready-percentage", 0, 2*time.Minute)
		w.proxy.awaitLoops(w.t, 2)
		before := len(w.proxy.allExchanges())
		w.deploy("more", 2, "1500m", "500Mi")
		hold(w.t, "nothing is requested", 30*time.Second, func() error {
			if requests := w.increases(before); len(requests) > 0 {
				return fmt.Errorf("%+v", requests)
			}
			return nil
		})
		if _, waiting, err := w.pods(); err != nil || waiting < 2 {
			w.t.Errorf("%d pods wait: %v", waiting, err)
		}
		if log := tail(w.autoscaler.log, 1<<26); d.real() && !strings.Contains(log, "Cluster is not ready for autoscaling") {
			w.t.Error("Cluster Autoscaler did not stop")
		}
		w.checkCreated(pods)
		w.note("%d of %d Nodes were not Ready", lost, pods+len(w.foreign))
		w.done(d, "17. half not Ready")
	})

	if !long() {
		return
	}
	w.part("with a higher percentage", func() {
		before := len(w.proxy.allExchanges())
		at := time.Now()
		w.restartAutoscaler(d, append(flags, "--max-total-unready-percentage=90"))
		// Pods on dead Nodes still count.
		w.awaitRunning(pods+2, 4*time.Minute)
		w.note("the new pods ran %.0f s after the restart", time.Since(at).Seconds())
		status := w.awaitHealth(dead, "open", 8*time.Minute)
		if status.Reason != "NodesNotReady" {
			w.t.Errorf("the circuit breaker is open because of %s", status.Reason)
		}
		// Kubernetes evicts the pods of dead Nodes after five minutes.
		await(w.t, "the other datacenter runs all pods", 8*time.Minute, func() error {
			counted, err := w.countIn()
			running, waiting, failed := w.pods()
			if err = errors.Join(err, failed); err == nil && (counted[other] < pods+2 || running != pods+2 || waiting != 0) {
				err = fmt.Errorf("VMs %v, %d pods run, %d wait", counted, running, waiting)
			}
			return err
		})
		if counted, err := w.countIn(); err != nil || counted[dead] != lost {
			w.t.Errorf("VMs: %v %v", counted, err)
		}
		for _, i := range w.increases(before) {
			if i.in(other) && i.code != "OK" {
				w.t.Errorf("the other datacenter refused: %+v", i)
			}
		}
		w.done(d, "17. raised percentage")
	})
}
