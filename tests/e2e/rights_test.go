package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	rbacauthorizer "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
)

// rare are rights without a request in any scenario, by account, with the requests that need them.
var rare = map[string]map[string]string{
	"the provider": {
		"patch secrets in kube-system": "five minutes after its creation, the token of a VM that has not joined is extended (E2E_LONG=1)",
	},
	"Cluster Autoscaler": {
		"get nodes": "after a conflict with another write, Cluster Autoscaler reads the Node again before it taints it: " +
			"utils/taints",
	},
}

// right is one verb on one resource.
type right struct {
	verb, group, resource string
	name                  string // of the only permitted object
	url                   string // non-resource URL, in place of a resource
	namespace             string // empty for a right in the whole cluster
	again                 int    // number of equal rights before it
}

func (r right) rule() rbac.PolicyRule {
	rule := rbac.PolicyRule{Verbs: []string{r.verb}}
	if r.url != "" {
		rule.NonResourceURLs = []string{r.url}
		return rule
	}
	rule.APIGroups, rule.Resources = []string{r.group}, []string{r.resource}
	if r.name != "" {
		rule.ResourceNames = []string{r.name}
	}
	return rule
}

// scope describes group, name and namespace.
func scope(group, name, namespace string) string {
	text := ""
	if group != "" {
		text += " of " + group
	}
	if name != "" {
		text += " named " + name
	}
	if namespace != "" {
		text += " in " + namespace
	}
	return text
}

func (r right) String() string {
	text := r.verb + " " + r.resource + r.url
	text += scope(r.group, r.name, r.namespace)
	if r.again > 0 {
		text += " (again)"
	}
	return text
}

// splitRules returns the single rights of rules.
func splitRules(namespace string, rules []rbac.PolicyRule) []right {
	var found []right
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, verb := range rule.Verbs {
			for _, url := range rule.NonResourceURLs {
				found = append(found, right{verb: verb, url: url})
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						found = append(found, right{verb: verb, group: group, resource: resource, name: name, namespace: namespace})
					}
				}
			}
		}
	}
	return found
}

// numberRights distinguishes equal rights: all but one of them are superfluous.
func numberRights(rights []right) []right {
	seen := map[right]int{}
	for n, r := range rights {
		rights[n].again = seen[r]
		seen[r]++
	}
	return rights
}

// call is a request with the attributes for authorization.
type call struct {
	verb, group, resource, subresource, namespace, name, path string
	// fallback for a watch that starts with all existing objects, which some API servers do not support.
	instead bool
}

func (c call) attributes(who string, groups []string) authorizer.Attributes {
	return authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: who, Groups: groups}, Verb: c.verb, Namespace: c.namespace, APIGroup: c.group,
		Resource: c.resource, Subresource: c.subresource, Name: c.name, ResourceRequest: c.resource != "", Path: c.path,
	}
}

func (c call) String() string {
	if c.resource == "" {
		return c.verb + " " + c.path
	}
	text := strings.TrimSuffix(c.verb+" "+c.resource+"/"+c.subresource, "/")
	text += scope(c.group, c.name, c.namespace)
	if c.instead {
		text += ", where a watch cannot start with all existing objects"
	}
	return text
}

var methods = map[string]string{
	"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE",
}

// parseCall parses a request of the audit log as the API server does: a creation has no name, and a field
// selector for one name sets the name.
func parseCall(verb, uri string) ([]call, error) {
	method, changes := methods[verb]
	if !changes {
		method = "GET"
	}
	asked, err := http.NewRequest(method, uri, nil)
	if err != nil {
		return nil, err
	}
	reader := apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	info, err := reader.NewRequestInfo(asked)
	if err != nil {
		return nil, err
	}
	if !info.IsResourceRequest {
		return []call{{verb: info.Verb, path: info.Path}}, nil
	}
	made := call{
		verb: info.Verb, group: info.APIGroup, resource: info.Resource, subresource: info.Subresource,
		namespace: info.Namespace, name: info.Name,
	}
	calls := []call{made}
	if asked.URL.Query().Get("sendInitialEvents") == "true" {
		made.verb, made.instead = "list", true
		calls = append(calls, made)
	}
	return calls, nil
}

// used has the rights of an account in one cluster, and its requests there.
type used struct {
	account, version string
	test             string
	user             string
	groups           []string
	// own are the rights of the account; common are those of its groups.
	own, common []right
	calls       map[call]bool
}

// authorizer is the RBAC authorizer of Kubernetes for an account with these rights and those of its groups.
func (u used) authorizer(rights []right) authorizer.Authorizer {
	rules := map[string][]rbac.PolicyRule{}
	for _, r := range slices.Concat(rights, u.common) {
		rules[r.namespace] = append(rules[r.namespace], r.rule())
	}
	var roles []*rbac.Role
	var bindings []*rbac.RoleBinding
	var clusterRoles []*rbac.ClusterRole
	var clusterBindings []*rbac.ClusterRoleBinding
	to := []rbac.Subject{{Kind: rbac.UserKind, Name: u.user}}
	for in, rules := range rules {
		object := meta.ObjectMeta{Name: "all", Namespace: in}
		if in == "" {
			clusterRoles = append(clusterRoles, &rbac.ClusterRole{ObjectMeta: object, Rules: rules})
			clusterBindings = append(clusterBindings, &rbac.ClusterRoleBinding{
				ObjectMeta: object, Subjects: to, RoleRef: rbac.RoleRef{Kind: "ClusterRole", Name: "all"},
			})
		} else {
			roles = append(roles, &rbac.Role{ObjectMeta: object, Rules: rules})
			bindings = append(bindings, &rbac.RoleBinding{
				ObjectMeta: object, Subjects: to, RoleRef: rbac.RoleRef{Kind: "Role", Name: "all"},
			})
		}
	}
	_, all := validation.NewTestRuleResolver(roles, bindings, clusterRoles, clusterBindings)
	return rbacauthorizer.New(all, all, all, all)
}

// refusedCalls returns the calls that are refused with only these rights.
func (u used) refusedCalls(rights []right) ([]call, error) {
	judge := u.authorizer(rights)
	var refused []call
	for made := range u.calls {
		decision, _, err := judge.Authorize(context.Background(), made.attributes(u.user, u.groups))
		if err != nil {
			return nil, err
		}
		if decision != authorizer.DecisionAllow {
			refused = append(refused, made)
		}
	}
	return refused, nil
}

// need is a call that is refused without a right.
type need struct{ test, call string }

// needs removes each right alone, and returns the calls that are refused without it.
func needs(all []used) (map[right][]need, error) {
	found := map[right][]need{}
	for _, u := range all {
		refused, err := u.refusedCalls(u.own)
		if err != nil {
			return nil, err
		}
		if len(refused) > 0 {
			return nil, fmt.Errorf("%s made allowed requests in %s that its rights do not permit: %v", u.account, u.test, refused)
		}
		for n, r := range u.own {
			refused, err := u.refusedCalls(slices.Delete(slices.Clone(u.own), n, n+1))
			if err != nil {
				return nil, err
			}
			needs := found[r]
			for _, made := range refused {
				needs = append(needs, need{u.test, made.String()})
			}
			found[r] = needs
		}
	}
	return found, nil
}

// checkMinimal returns a table of all rights, each with a call that needs it, and the problems: unneeded
// rights, and excuses for rights that do not exist. Excused rights count as needed.
func checkMinimal(all []used, excuses map[string]map[string]string) (lines, problems []string) {
	by, given := map[string][]used{}, map[string]map[string]bool{}
	for _, u := range all {
		who := strings.TrimSpace(u.account + " " + u.version)
		by[who] = append(by[who], u)
		if given[u.account] == nil {
			given[u.account] = map[string]bool{}
		}
		for _, r := range u.own {
			given[u.account][r.String()] = true
		}
	}
	for _, who := range slices.Sorted(maps.Keys(by)) {
		found, err := needs(by[who])
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		lines = append(lines, "", fmt.Sprintf("| right of %s | request that needs it | test | number of further tests |", who), "|---|---|---|---|")
		for _, r := range slices.SortedFunc(maps.Keys(found), compare) {
			why, excused := excuses[by[who][0].account][r.String()]
			switch {
			case len(found[r]) > 0:
				lines = append(lines, fmt.Sprintf("| %s | %s |", r, firstNeed(found[r])))
			case excused:
				lines = append(lines, fmt.Sprintf("| %s | rare: %s | | |", r, why))
			default:
				lines = append(lines, fmt.Sprintf("| %s | nothing | | |", r))
				problems = append(problems, fmt.Sprintf("no request of a test needs the right of %s to %s", who, r))
			}
		}
	}
	for account, given := range given {
		for _, r := range slices.Sorted(maps.Keys(excuses[account])) {
			if !given[r] {
				problems = append(problems, fmt.Sprintf("the excused right of %s to %s does not exist", account, r))
			}
		}
	}
	return lines, problems
}

// compare orders rights by namespace, group and resource.
func compare(a, b right) int {
	return cmp.Or(
		cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.group, b.group), cmp.Compare(a.resource, b.resource),
		cmp.Compare(a.String(), b.String()),
	)
}

// firstNeed returns the first need by name, and the number of further tests, so that the output is stable.
func firstNeed(needs []need) string {
	tests := map[string]bool{}
	for _, n := range needs {
		tests[n.test] = true
	}
	least := slices.MinFunc(needs, func(a, b need) int {
		return cmp.Or(cmp.Compare(a.test, b.test), cmp.Compare(a.call, b.call))
	})
	return fmt.Sprintf("%s | %s | %d", least.call, least.test, len(tests)-1)
}

// complete returns true iff all tests ran and passed. Otherwise rights may be unused because their test did
// not run.
func complete(code int) bool {
	return code == 0 && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}
