package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbac "k8s.io/api/rbac/v1"
)

// rights splits rules into single permissions: one verb of one resource.
func rights(rules []rbac.PolicyRule) map[string]bool {
	found := map[string]bool{}
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{"*"}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					for _, name := range names {
						found[strings.TrimPrefix(fmt.Sprintf("%s/%s %s %s", group, resource, verb, name), "/")] = true
					}
				}
			}
		}
	}
	return found
}

// granted returns the permissions of the roles of these objects, in the cluster and in the namespace.
func granted(t testing.TB, objects []object, cluster, namespaced string) map[string]bool {
	found := map[string]bool{}
	for right := range rights(get[rbac.ClusterRole](t, objects, "ClusterRole", cluster).Rules) {
		found["cluster: "+right] = true
	}
	for right := range rights(get[rbac.Role](t, objects, "Role", namespaced).Rules) {
		found["namespace: "+right] = true
	}
	return found
}

// The manifests of the base are generated from the program's own table of permissions.
func TestProviderHasExactlyItsPermissions(t *testing.T) {
	var written []object
	for _, pattern := range []string{"deployments/base/*role*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, parse(t, file, string(content))...)
		}
	}
	want := granted(t, written, "vpsie-autoscaler", "vpsie-autoscaler")
	got := granted(t, render(t, nil).objects, namespace+"-"+provider, provider)
	for right := range want {
		if !got[right] {
			t.Errorf("the chart does not grant %s, which the program needs", right)
		}
	}
	for right := range got {
		if !want[right] {
			t.Errorf("the chart grants %s, which the program does not need", right)
		}
	}
}

// Cluster Autoscaler has few write permissions, and the read permissions of its simulated scheduler.
func TestClusterAutoscalerHasFewWritePermissions(t *testing.T) {
	got := granted(t, render(t, nil).objects, namespace+"-"+autoscale, autoscale)
	var changes []string
	for right := range got {
		if verb := strings.Fields(right)[2]; !slices.Contains([]string{"get", "list", "watch"}, verb) {
			changes = append(changes, right)
		}
	}
	slices.Sort(changes)
	want := []string{
		"cluster: events create *",
		"cluster: events patch *",
		"cluster: nodes update *",
		"cluster: pods/eviction create *",
		"namespace: configmaps create *",
		"namespace: configmaps delete cluster-autoscaler-status",
		"namespace: configmaps update cluster-autoscaler-status",
		"namespace: coordination.k8s.io/leases create *",
		"namespace: coordination.k8s.io/leases update cluster-autoscaler",
	}
	if !slices.Equal(changes, want) {
		t.Errorf("Cluster Autoscaler may change\n%s\nwant\n%s", strings.Join(changes, "\n"), strings.Join(want, "\n"))
	}
	for version, want := range map[string][2]bool{"1.31.5": {}, "1.32.0": {true}, "1.34.5": {true}, "1.36.1": {true, true}} {
		made := render(t, fromYAML(t, "clusterAutoscaler: {version: "+version+"}"))
		got := granted(t, made.objects, namespace+"-"+autoscale, autoscale)
		for n, right := range []string{"storage.k8s.io/volumeattachments watch *", "resource.k8s.io/resourceclaims watch *"} {
			if got["cluster: "+right] != want[n] {
				t.Errorf("%s: %s should be %v", version, right, want[n])
			}
		}
	}
}

func TestPermissionsFollowTheNamesInFlags(t *testing.T) {
	made := render(t, fromYAML(t, `
clusterAutoscaler:
  extraArgs: {leader-elect-resource-name: lease, status-config-map-name: status, expander: "grpc,priority"}
`))
	got := granted(t, made.objects, namespace+"-"+autoscale, autoscale)
	for _, right := range []string{
		"namespace: coordination.k8s.io/leases update lease", "namespace: configmaps update status",
		"namespace: configmaps watch *",
	} {
		if !got[right] {
			t.Errorf("Cluster Autoscaler needs %s", right)
		}
	}
}

func TestRolesAreBoundToTheAccountsOfThePods(t *testing.T) {
	for _, given := range []string{"", matrix["accounts of your own"]} {
		made := render(t, fromYAML(t, given))
		for name, pod := range made.pods(t) {
			if name == provider+"-test" {
				continue
			}
			cluster := get[rbac.ClusterRoleBinding](t, made.objects, "ClusterRoleBinding", namespace+"-"+name)
			namespaced := get[rbac.RoleBinding](t, made.objects, "RoleBinding", name)
			for _, subject := range []rbac.Subject{cluster.Subjects[0], namespaced.Subjects[0]} {
				if subject.Name != pod.Spec.ServiceAccountName || subject.Namespace != namespace {
					t.Errorf("%s runs as %s, its roles are bound to %s", name, pod.Spec.ServiceAccountName, subject.Name)
				}
			}
		}
	}
}
