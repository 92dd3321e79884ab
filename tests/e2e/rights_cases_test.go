package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	rbac "k8s.io/api/rbac/v1"
)

// TestRights checks the evaluation of rights with planted requests.
func TestRights(t *testing.T) {
	rule := func(verbs, group, resources string, names ...string) rbac.PolicyRule {
		return rbac.PolicyRule{
			Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(resources), ResourceNames: names,
		}
	}
	const (
		pods    = "/api/v1/pods"
		secrets = "/api/v1/namespaces/one/secrets"
		ours    = "/apis/autoscaler.vpsie.com/v1alpha1/namespaces/one/vpsienodes"
		named   = "?fieldSelector=metadata.name%3Dtoken"
	)
	for _, c := range []struct {
		name string
		// rules of the cluster, and of namespace "one".
		cluster, namespaced []rbac.PolicyRule
		calls               string // pairs of verb and path
		idle                []string
		refused             bool // refused even with all rights
	}{
		{
			name:    "all rights are needed",
			cluster: []rbac.PolicyRule{rule("list watch", "", "nodes pods")},
			calls:   "list /api/v1/nodes watch /api/v1/nodes?watch=true list /api/v1/pods watch /api/v1/pods?watch=1",
		},
		{
			name:    "two unneeded rights",
			cluster: []rbac.PolicyRule{rule("list watch delete", "", "nodes"), rule("create", "apps", "daemonsets")},
			calls:   "list /api/v1/nodes watch /api/v1/nodes?watch=true",
			idle:    []string{"create daemonsets of apps", "delete nodes"},
		},
		{
			name:    "one resource of a rule",
			cluster: []rbac.PolicyRule{rule("list", "", "nodes services")},
			calls:   "list /api/v1/nodes",
			idle:    []string{"list services"},
		},
		{
			name:       "a status is not its object",
			namespaced: []rbac.PolicyRule{rule("patch", "autoscaler.vpsie.com", "vpsienodes vpsienodes/status")},
			calls:      "patch " + ours + "/a/status",
			idle:       []string{"patch vpsienodes of autoscaler.vpsie.com in one"},
		},
		{
			name:       "an object is not its status",
			namespaced: []rbac.PolicyRule{rule("patch", "autoscaler.vpsie.com", "vpsienodes")},
			calls:      "patch " + ours + "/a/status",
			refused:    true,
		},
		{
			name:    "an eviction is not a pod",
			cluster: []rbac.PolicyRule{rule("create", "", "pods pods/eviction")},
			calls:   "create /api/v1/namespaces/two/pods/web/eviction",
			idle:    []string{"create pods"},
		},
		{
			name:    "a right of another group",
			cluster: []rbac.PolicyRule{rule("create", "", "events"), rule("create", "events.k8s.io", "events")},
			calls:   "create /apis/events.k8s.io/v1/namespaces/two/events",
			idle:    []string{"create events"},
		},
		{
			name:       "one name of two",
			namespaced: []rbac.PolicyRule{rule("get", "", "secrets", "token", "other")},
			calls:      "get " + secrets + "/token",
			idle:       []string{"get secrets named other in one"},
		},
		{
			name:       "a right for a name besides one for all",
			namespaced: []rbac.PolicyRule{rule("get", "", "secrets", "token"), rule("get", "", "secrets")},
			calls:      "get " + secrets + "/token get " + secrets + "/other",
			idle:       []string{"get secrets named token in one"},
		},
		{
			name:       "a selector for one name sets the name",
			namespaced: []rbac.PolicyRule{rule("list watch", "", "secrets", "token")},
			calls:      "list " + secrets + named + " watch " + secrets + named + "&watch=true",
		},
		{
			name:       "a list without a selector has no name",
			namespaced: []rbac.PolicyRule{rule("list", "", "secrets", "token")},
			calls:      "list " + secrets,
			refused:    true,
		},
		{
			name:       "a creation has no name",
			namespaced: []rbac.PolicyRule{rule("create", "", "secrets", "token")},
			calls:      "create " + secrets,
			refused:    true,
		},
		{
			name:       "a namespaced right is not a cluster right",
			namespaced: []rbac.PolicyRule{rule("list", "", "pods")},
			calls:      "list " + pods,
			refused:    true,
		},
		{
			name:       "a right in the cluster and in a namespace",
			cluster:    []rbac.PolicyRule{rule("list", "", "pods")},
			namespaced: []rbac.PolicyRule{rule("list", "", "pods")},
			calls:      "list " + pods + " list /api/v1/namespaces/one/pods",
			idle:       []string{"list pods in one"},
		},
		{
			name:    "a right given twice",
			cluster: []rbac.PolicyRule{rule("list", "", "pods"), rule("list", "", "pods")},
			calls:   "list " + pods,
			idle:    []string{"list pods", "list pods (again)"},
		},
		{
			name:    "deletecollection is not delete",
			cluster: []rbac.PolicyRule{rule("delete deletecollection", "", "nodes")},
			calls:   "deletecollection /api/v1/nodes",
			idle:    []string{"delete nodes"},
		},
		{
			name:    "a watch that starts with all objects counts as a list",
			cluster: []rbac.PolicyRule{rule("list watch", "", "pods")},
			calls:   "watch " + pods + "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
		},
		{
			name:    "a right of all authenticated users",
			cluster: []rbac.PolicyRule{rule("list", "", "pods"), {Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}},
			calls:   "list " + pods + " get /version",
			idle:    []string{"get /metrics"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := used{
				account: "some account", test: "planted", user: account("some-account"), groups: []string{"system:authenticated"},
				own:    numberRights(slices.Concat(splitRules("", c.cluster), splitRules("one", c.namespaced))),
				common: []right{{verb: "get", url: "/version"}},
				calls:  map[call]bool{},
			}
			for words := range slices.Chunk(strings.Fields(c.calls), 2) {
				calls, err := parseCall(words[0], words[1])
				if err != nil || calls[0].verb != words[0] {
					t.Fatalf("%s %s is parsed as %v (%v)", words[0], words[1], calls, err)
				}
				for _, made := range calls {
					u.calls[made] = true
				}
			}
			found, err := needs([]used{u})
			if (err != nil) != c.refused {
				t.Fatalf("refused with all rights: %v, want %v", err, c.refused)
			}
			var idle []string
			for r, needs := range found {
				if len(needs) == 0 {
					idle = append(idle, r.String())
				}
			}
			if slices.Sort(idle); !slices.Equal(idle, c.idle) {
				t.Errorf("nothing needs %q, want %q", idle, c.idle)
			}
		})
	}
}

// TestRightsOfSeveral has a right in several clusters, one of which needs it, and an account with an unneeded
// right.
func TestRightsOfSeveral(t *testing.T) {
	reads := splitRules("", []rbac.PolicyRule{{Verbs: []string{"list", "delete"}, APIGroups: []string{""}, Resources: []string{"pods"}}})
	list := call{verb: "list", resource: "pods"}
	remove := call{verb: "delete", resource: "pods", namespace: "two", name: "web"}
	all := []used{
		{account: "one", test: "A", user: "one", own: reads, calls: map[call]bool{list: true}},
		{account: "one", test: "B", user: "one", own: reads, calls: map[call]bool{list: true, remove: true}},
		{account: "two", version: "1.36", test: "A", user: "two", own: reads, calls: map[call]bool{list: true}},
	}
	lines, problems := checkMinimal(all, nil)
	if want := []string{"no request of a test needs the right of two 1.36 to delete pods"}; !slices.Equal(problems, want) {
		t.Errorf("%q, want %q", problems, want)
	}
	for _, want := range []string{
		"| list pods | list pods | A | 1 |", "| delete pods | delete pods named web in two | B | 0 |", "| delete pods | nothing | | |",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in %q", want, lines)
		}
	}

	excuses := map[string]map[string]string{"one": {"get pods": "never"}, "two": {"delete pods": "some day"}}
	lines, problems = checkMinimal(all, excuses)
	if want := []string{"the excused right of one to get pods does not exist"}; !slices.Equal(problems, want) {
		t.Errorf("%q, want %q", problems, want)
	}
	if want := "| delete pods | rare: some day | | |"; !slices.Contains(lines, want) {
		t.Errorf("no line %q in %q", want, lines)
	}
}

// TestRightsExcused checks that every excuse has a known account; others would have no effect.
func TestRightsExcused(t *testing.T) {
	known := slices.Collect(maps.Values(accounts))
	for who := range rare {
		if !slices.Contains(known, who) {
			t.Errorf("excuses for the unknown account %q", who)
		}
	}
}
