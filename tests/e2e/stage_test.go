package e2e

import (
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStage checks that pods start and end on the control plane before the provider is installed.
func TestStage(t *testing.T) {
	began := time.Now()
	w := &world{t: t, cluster: startControlPlane(t, scratch(t), "")}
	t.Logf("control plane ready after %s", time.Since(began).Round(100*time.Millisecond))
	have := core.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "pods": resource.MustParse("110")}
	node := &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: "one", Labels: map[string]string{managed: "true"}},
		Status: core.NodeStatus{
			Capacity: have, Allocatable: have,
			Conditions: []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, LastHeartbeatTime: meta.Now()}},
		},
	}
	if _, err := w.cluster.client.CoreV1().Nodes().Create(background, node, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.deploy("web", 3, "900m", "500Mi")
	counts := func(running, waiting int) func() error {
		return func() error {
			r, w, err := w.pods()
			if err == nil && (r != running || w != waiting) {
				err = fmt.Errorf("%d run, %d wait", r, w)
			}
			return err
		}
	}
	await(t, "two pods run, one waits", 30*time.Second, counts(2, 1))
	w.scale("web", 0)
	await(t, "all pods are deleted", 30*time.Second, counts(0, 0))
}
