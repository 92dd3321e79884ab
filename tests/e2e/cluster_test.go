package e2e

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// leaderKilled is scenario g: the leader is killed right after it accepted an increase, and its successor
// while the nodes boot. Elections have the times of production.
func leaderKilled(t *testing.T, d driver, recorded *recording) {
	w := setting{nodeGroups: []object{nodeGroup("general", 4, small)}, election: patient}.world(t, d, recorded)
	// Nodes still boot when Cluster Autoscaler has found the next leader.
	w.vpsie.must(t, "PUT", "/times", object{"listed": "1s", "boot": "30s", "deletion": "1s"})
	w.deploy("web", 8, "800m", "500Mi")
	w.awaitRPC("NodeGroupIncreaseSize", 0)
	w.awaitSuccessfulLoop(w.provider.killLeader(t), time.Minute)
	// The provider waits a minute before it repeats a recorded request that may not have been sent.
	await(t, "a VM boots", 2*time.Minute, func() error {
		machines, err := w.vpsie.workers()
		if err == nil && !slices.ContainsFunc(machines, func(machine vm) bool { return machine.Phase != "running" }) {
			err = fmt.Errorf("all %d VMs run", len(machines))
		}
		return err
	})
	w.awaitSuccessfulLoop(w.provider.killLeader(t), time.Minute)
	w.awaitSettled(8, 0, 4, 2*time.Minute)
	hold(t, "no further VM is created", 8*time.Second, func() error { return w.checkSettled(8, 0, 4) })
	w.checkCreated(4)
	w.done(d, "g. leader killed")
}

// machineDeleted is scenario h: a VPSieNode is deleted by hand; then a second one, with its finalizer
// removed.
func machineDeleted(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 4, small))
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.createBudget("web", 4)
	first := w.machine()
	w.cluster.delete(t, objects+"/vpsienodes/"+first.Metadata.Name)
	await(t, "its Node is cordoned", 20*time.Second, func() error { return w.checkCordoned(first.Status.Hostname) })
	hold(t, "the budget allows no eviction", 8*time.Second, func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != 4 || waiting != 0) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return errors.Join(err, w.checkVM(first.Status.VM))
	})
	w.setBudget("web", 3)
	w.awaitGone(first, func() error {
		if running, _, err := w.pods(); err == nil && running < 3 {
			return fatal{fmt.Errorf("the budget is broken: %d pods run", running)}
		}
		return nil
	})
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.cluster.awaitEvent(t, "VPSieNode", first.Metadata.Name, "VPSieNodeDeleted")

	second := w.machine()
	w.cluster.delete(t, objects+"/vpsienodes/"+second.Metadata.Name)
	w.cluster.patch(t, objects+"/vpsienodes/"+second.Metadata.Name, object{"metadata": object{"finalizers": nil}})
	unrecorded := time.Time{}
	w.awaitGone(second, func() error {
		records, err := w.records(nil)
		if err != nil {
			return nil
		}
		_, recorded := records["vpsie://"+second.Status.VM]
		switch {
		case recorded:
			unrecorded = time.Time{}
		case unrecorded.IsZero():
			unrecorded = time.Now()
		case time.Since(unrecorded) > 10*time.Second:
			return fatal{errors.New("its VM runs without a record")}
		}
		return nil
	})
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.checkCreated(4)
	w.done(d, "h. VPSieNode deleted")
}

// nodeDeleted is scenario i: a Node is deleted by hand while its VM runs.
func nodeDeleted(t *testing.T, d driver, recorded *recording) {
	w := setting{
		nodeGroups: []object{nodeGroup("general", 4, small)}, autoscaler: []string{"--max-node-provision-time=30s"},
	}.world(t, d, recorded)
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	// If a Node disappears before Cluster Autoscaler has seen it, the scale-up fails and the group backs off for
	// five minutes.
	w.proxy.awaitLoops(t, 2)
	victim := w.machine()
	w.cluster.delete(t, "/api/v1/nodes/"+victim.Status.Hostname)
	w.awaitGone(victim, func() error { return nil })
	w.awaitSettled(4, 0, 2, 3*time.Minute)
	w.checkCreated(3)
	w.done(d, "i. Node deleted")
}

// vmDeleted is scenario j: a VM is deleted at VPSie, outside the provider. Cluster Autoscaler does not delete
// the unready Node, so that the provider must detect the loss.
func vmDeleted(t *testing.T, d driver, recorded *recording) {
	w := setting{
		nodeGroups: []object{nodeGroup("general", 4, small)}, autoscaler: []string{"--scale-down-unready-time=20m"},
	}.world(t, d, recorded)
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	victim := w.machine()
	w.vpsie.must(t, "DELETE", "/vms/"+victim.Status.VM, nil)
	await(t, "the Node of the deleted VM is deleted", 5*time.Minute, func() error {
		if there, err := w.cluster.get("/api/v1/nodes/"+victim.Status.Hostname, &object{}); err != nil || there {
			return fmt.Errorf("it exists: %v (%v)", there, err)
		}
		return nil
	})
	w.awaitSettled(4, 0, 2, 3*time.Minute)
	w.checkCreated(3)
	w.cluster.awaitEvent(t, "NodeGroup", "general", "vanished")
	w.done(d, "j. VM deleted")
}

// apiServerKilled is scenario k: the API server is killed during a scale-up, and restarted.
func apiServerKilled(t *testing.T, d driver, recorded *recording) {
	w := setting{nodeGroups: []object{nodeGroup("general", 4, small)}, election: patient}.world(t, d, recorded)
	w.deploy("web", 8, "800m", "500Mi")
	w.awaitRPC("NodeGroupIncreaseSize", 0)
	w.provider.mayEnd = true
	at := time.Now()
	w.cluster.apiserver.kill()
	w.cluster.serve(t)
	w.note("API server ready after %.0f s", time.Since(at).Seconds())
	w.awaitSettled(8, 0, 4, 4*time.Minute)
	hold(t, "no further VM is created", 8*time.Second, func() error { return w.checkSettled(8, 0, 4) })
	w.checkCreated(4)
	w.done(d, "k. API server killed")
}

// nodeGroupsEdited is scenario l: NodeGroups are changed, created and deleted at runtime.
func nodeGroupsEdited(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 2, small))
	general := objects + "/nodegroups/general"
	of := func(group string) map[string]string {
		return map[string]string{"autoscaler.vpsie.com/nodegroup": group}
	}
	const catalog = "/api/v1/namespaces/" + namespace + "/configmaps/vpsie-autoscaler-catalog"
	var kept struct {
		Metadata struct{ Annotations map[string]string }
		Data     map[string]string
	}
	await(t, "the catalog is stored", 20*time.Second, func() error {
		there, err := w.cluster.get(catalog, &kept)
		if err == nil && !there {
			err = errors.New("the ConfigMap does not exist")
		}
		return err
	})
	// Another tool changes the ConfigMap: the next write of the provider conflicts, and the provider reads it
	// again.
	w.cluster.patch(t, catalog, object{"metadata": object{"annotations": object{"other": "tool"}}})
	w.deployTo(of("general"), "web", 6, "800m", "500Mi")
	w.awaitSettled(4, 2, 2, 2*time.Minute)
	// The provider uses a Node after it was unchanged for 30 seconds.
	await(t, "the size profile is stored and the annotation of the tool remains", 90*time.Second, func() error {
		_, err := w.cluster.get(catalog, &kept)
		profiled := slices.ContainsFunc(slices.Collect(maps.Keys(kept.Data)), func(key string) bool { return strings.HasPrefix(key, "profile.") })
		if err == nil && !(profiled && kept.Metadata.Annotations["other"] == "tool") {
			err = fmt.Errorf("%v", kept)
		}
		return err
	})
	w.awaitCondition("general", "AtMaxCapacity", "True")
	w.awaitCondition("general", "Ready", "True")
	w.cluster.patch(t, general, object{"spec": object{"maxNodes": 3}})
	w.awaitSettled(6, 0, 3, 2*time.Minute)

	w.cluster.patch(t, general, object{"spec": object{"maxNodes": 2, "labels": object{"team": "one"}}})
	w.scale("web", 7)
	w.awaitSettled(6, 1, 3, time.Minute)
	await(t, "the Nodes have the new label", 20*time.Second, func() error {
		nodes, err := w.nodes(isOurs)
		for _, node := range nodes {
			if node.Labels["team"] != "one" {
				err = errors.Join(err, fmt.Errorf("%s has %v", node.Name, node.Labels))
			}
		}
		return err
	})
	hold(t, "nodes above the maximum remain, and no further node is created", 5*time.Second, func() error { return w.checkSettled(6, 1, 3) })

	w.cluster.must(t, "POST", objects+"/nodegroups", nodeGroup("special", 3, large))
	w.deployTo(of("special"), "batch", 2, "3500m", "1Gi")
	w.awaitSettled(8, 1, 5, 2*time.Minute)
	w.cluster.delete(t, objects+"/nodegroups/special")
	w.awaitCondition("special", "Deleting", "True")
	w.scale("batch", 3)
	stays := func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != 8 || waiting != 2) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	}
	await(t, "one more pod waits", 10*time.Second, stays)
	hold(t, "a deleted NodeGroup with nodes remains and adds no nodes", 8*time.Second, stays)
	w.scale("batch", 0)
	w.awaitSettled(6, 1, 3, 2*time.Minute)
	w.awaitDeletion("special")

	w.cluster.patch(t, general, object{"spec": object{"deletionPolicy": "Drain"}})
	w.cluster.delete(t, general)
	w.awaitSettled(0, 7, 0, 2*time.Minute)
	w.awaitDeletion("general")
	const config = "/apis/autoscaler.vpsie.com/v1alpha1/autoscalerconfigs"
	w.cluster.must(t, "POST", config, object{
		"apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig", "metadata": object{"name": "default"},
		"spec": object{"globalSettings": object{"maxClusterWorkers": 3}},
	})
	w.cluster.must(t, "POST", objects+"/nodegroups", nodeGroup("general", 4, small))
	// If a loop of Cluster Autoscaler began before the deletion, its scale-up was refused, and the pool backs
	// off for five minutes.
	w.awaitSettled(6, 1, 3, 7*time.Minute)
	w.cluster.patch(t, config+"/default", object{"spec": object{"globalSettings": object{"maxClusterWorkers": 4}}})
	w.awaitSettled(7, 0, 4, 2*time.Minute)
	w.done(d, "l. NodeGroups edited")
}

// secretChanged is scenario m: the credentials of VPSie are changed at runtime, also to wrong ones.
func secretChanged(t *testing.T, d driver, recorded *recording) {
	w := newWorld(t, d, recorded, nodeGroup("general", 4, small))
	pid := w.provider.awaitLeader(t).pid()
	w.deploy("web", 2, "800m", "500Mi")
	w.awaitSettled(2, 0, 1, 2*time.Minute)
	w.vpsie.must(t, "PUT", "/token", object{"token": "second"})
	w.cluster.rotate(t, "second")
	w.scale("web", 4)
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.cluster.rotate(t, "wrong")
	w.cluster.awaitEvent(t, "Secret", secret, "the earlier credentials stay in use")
	at := time.Now()
	w.scale("web", 6)
	w.awaitSettled(6, 0, 3, 2*time.Minute)
	// An event that repeats within a minute is not sent again; a later one becomes a series.
	time.Sleep(time.Until(at.Add(61 * time.Second)))
	w.cluster.rotate(t, "wrong, too")
	w.cluster.awaitSeries(t, "Secret", secret, "the earlier credentials stay in use", 2)
	w.cluster.rotate(t, "second")
	w.scale("web", 8)
	w.awaitSettled(8, 0, 4, 2*time.Minute)
	w.checkCreated(4)
	if now := w.provider.awaitLeader(t).pid(); now != pid {
		t.Errorf("process %d leads instead of process %d", now, pid)
	}
	w.done(d, "m. Secret changed")
}

// rollingRestart is scenario n: the replicas get SIGTERM, one after the other, while Cluster Autoscaler runs.
func rollingRestart(t *testing.T, d driver, recorded *recording) {
	w := setting{nodeGroups: []object{nodeGroup("general", 4, small)}, election: patient}.world(t, d, recorded)
	w.deploy("web", 4, "800m", "500Mi")
	w.awaitRPC("NodeGroupIncreaseSize", 0)
	for range 2 {
		leader := w.provider.awaitLeader(t)
		at := time.Now()
		leader.end(syscall.SIGTERM)
		w.awaitSuccessfulLoop(at, 20*time.Second)
	}
	w.awaitSettled(4, 0, 2, 2*time.Minute)
	w.checkCreated(2)
	w.done(d, "n. rolling restart")
}

// awaitSuccessfulLoop waits for a run of Cluster Autoscaler's loop without an error, and notes its time.
func (w *world) awaitSuccessfulLoop(since time.Time, deadline time.Duration) {
	w.t.Helper()
	await(w.t, "a loop of Cluster Autoscaler succeeds", deadline, func() error {
		at, err := w.proxy.recovered(since)
		if err == nil {
			w.note("next successful loop %.1f s later", at.Sub(since).Seconds())
		}
		return err
	})
}

// checkCreated checks the number of VMs that were ever created.
func (w *world) checkCreated(want int) {
	w.t.Helper()
	if made := w.countCreated(); made != want {
		w.t.Errorf("%d VMs were created, want %d", made, want)
	}
}

// machine returns a running machine whose VPSieNode is not deleted.
func (w *world) machine() record {
	w.t.Helper()
	records, err := w.cluster.records()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, record := range records {
		if record.Status.Phase == "Running" && record.Metadata.Deletion == "" {
			return record
		}
	}
	w.t.Fatalf("no machine runs: %+v", records)
	return record{}
}

func (w *world) checkVM(uuid string) error {
	machines, err := w.vpsie.workers()
	if err == nil && !slices.ContainsFunc(machines, func(machine vm) bool { return machine.UUID == uuid }) {
		err = fmt.Errorf("VM %s is gone", uuid)
	}
	return err
}

func (w *world) checkCordoned(name string) error {
	node, err := w.cluster.client.CoreV1().Nodes().Get(background, name, meta.GetOptions{})
	if err == nil && !node.Spec.Unschedulable {
		err = errors.New("the Node is schedulable")
	}
	return err
}

// awaitGone waits until VM, VPSieNode and Node of a machine are gone, and checks a condition meanwhile.
func (w *world) awaitGone(machine record, meanwhile func() error) {
	w.t.Helper()
	await(w.t, machine.Metadata.Name+" is gone", 4*time.Minute, func() error {
		if err := meanwhile(); err != nil {
			return err
		}
		if err := w.checkVM(machine.Status.VM); err == nil {
			return errors.New("its VM exists")
		}
		for what, where := range map[string]string{
			"VPSieNode": objects + "/vpsienodes/" + machine.Metadata.Name, "Node": "/api/v1/nodes/" + machine.Status.Hostname,
		} {
			if there, err := w.cluster.get(where, &object{}); err != nil || there {
				return fmt.Errorf("its %s exists: %v (%v)", what, there, err)
			}
		}
		return nil
	})
}

// createBudget creates a PodDisruptionBudget with a minimum number of running pods; setBudget changes it.
func (w *world) createBudget(app string, least int) {
	w.t.Helper()
	minimum := intstr.FromInt(least)
	budget := &policy.PodDisruptionBudget{
		ObjectMeta: meta.ObjectMeta{Name: app},
		Spec: policy.PodDisruptionBudgetSpec{
			MinAvailable: &minimum, Selector: &meta.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}
	budgets := w.cluster.client.PolicyV1().PodDisruptionBudgets("default")
	if _, err := budgets.Create(background, budget, meta.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	await(w.t, "the status of the budget is up to date", 20*time.Second, func() error {
		found, err := budgets.Get(background, app, meta.GetOptions{})
		if err == nil && found.Status.CurrentHealthy < int32(least) {
			err = fmt.Errorf("%+v", found.Status)
		}
		return err
	})
}

func (w *world) setBudget(app string, least int) {
	w.t.Helper()
	w.cluster.patch(w.t, "/apis/policy/v1/namespaces/default/poddisruptionbudgets/"+app,
		object{"spec": object{"minAvailable": least}})
}

// awaitCondition waits for a condition of a NodeGroup.
func (w *world) awaitCondition(group, kind, status string) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%s of %s is %s", kind, group, status), 20*time.Second, func() error {
		var found declared
		if _, err := w.cluster.get(objects+"/nodegroups/"+group, &found); err != nil {
			return err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == kind && condition.Status == status {
				return nil
			}
		}
		return fmt.Errorf("%+v", found.Status)
	})
}

// awaitDeletion waits until a NodeGroup is gone.
func (w *world) awaitDeletion(group string) {
	w.t.Helper()
	await(w.t, "NodeGroup "+group+" is gone", 30*time.Second, func() error {
		there, err := w.cluster.get(objects+"/nodegroups/"+group, &object{})
		if err == nil && there {
			err = errors.New("it exists")
		}
		return err
	})
}
