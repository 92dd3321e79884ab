package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// accounts are the users in the audit log of the API server.
var accounts = map[string]string{
	account(release):                         "the provider",
	account(release + "-cluster-autoscaler"): "Cluster Autoscaler",
}

func account(name string) string { return "system:serviceaccount:" + namespace + ":" + name }

// checkRights fails the test if the API server, once ready, refused a request of an account or found it
// invalid. It stores the rights and the allowed requests of each account.
func (c *controlPlane) checkRights(t *testing.T, d driver) {
	t.Helper()
	content, err := os.ReadFile(c.file("audit.log"))
	if err != nil {
		t.Error(err)
		return
	}
	refused := map[string]int{}
	did := map[string]*used{}
	for line := range strings.Lines(string(content)) {
		var event struct {
			Verb string
			URI  string    `json:"requestURI"`
			At   time.Time `json:"stageTimestamp"`
			User struct {
				Username string
				Groups   []string
			}
			Status struct {
				Code    int
				Message string
			} `json:"responseStatus"`
			Object      struct{ APIGroup, Resource, Subresource string } `json:"objectRef"`
			Annotations map[string]string
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			continue // A line that is incomplete because the API server was killed.
		}
		who := accounts[event.User.Username]
		switch event.Status.Code {
		case 400, 401, 403, 405, 422:
			if !event.At.Before(c.served) { // A starting API server has not loaded the roles yet.
				what := strings.Trim(fmt.Sprintf("%s %s/%s", event.Verb, event.Object.Resource, event.Object.Subresource), "/")
				refused[fmt.Sprintf("%s: %s of %q: %d %s", who, what, event.Object.APIGroup, event.Status.Code, event.Status.Message)]++
			}
			continue
		}
		if who == "" || event.Annotations["authorization.k8s.io/decision"] != "allow" {
			continue
		}
		if did[who] == nil {
			did[who] = &used{
				account: who, test: t.Name(), user: event.User.Username, groups: event.User.Groups, calls: map[call]bool{},
			}
			if who == "Cluster Autoscaler" {
				did[who].version = d.minor
			}
		}
		calls, err := parseCall(event.Verb, event.URI)
		if err != nil {
			t.Errorf("%s %s: %v", event.Verb, event.URI, err)
		}
		for _, made := range calls {
			did[who].calls[made] = true
		}
	}
	for _, what := range slices.Sorted(maps.Keys(refused)) {
		t.Errorf("the API server refused %d requests of %s", refused[what], what)
	}
	for _, u := range did {
		if err := c.rights(u); err != nil {
			t.Error(err)
			return
		}
		summary.Lock()
		summary.used = append(summary.used, *u)
		summary.Unlock()
	}
}

// rights reads the rights of an account.
func (c *controlPlane) rights(u *used) error {
	read := func(in string, subjects []rbac.Subject, ref rbac.RoleRef) error {
		var own, common bool
		for _, s := range subjects {
			own = own || s.Kind == rbac.ServiceAccountKind && s.Namespace == namespace && account(s.Name) == u.user
			common = common || s.Kind == rbac.GroupKind && slices.Contains(u.groups, s.Name)
		}
		if !own && !common {
			return nil
		}
		rules, err := c.rules(in, ref)
		if own {
			u.own = append(u.own, splitRules(in, rules)...)
		} else {
			u.common = append(u.common, splitRules(in, rules)...)
		}
		return err
	}
	everywhere, err := c.client.RbacV1().ClusterRoleBindings().List(background, meta.ListOptions{})
	if err != nil {
		return err
	}
	somewhere, err := c.client.RbacV1().RoleBindings(meta.NamespaceAll).List(background, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, bound := range everywhere.Items {
		err = errors.Join(err, read("", bound.Subjects, bound.RoleRef))
	}
	for _, bound := range somewhere.Items {
		err = errors.Join(err, read(bound.Namespace, bound.Subjects, bound.RoleRef))
	}
	u.own = numberRights(u.own)
	return err
}

func (c *controlPlane) rules(in string, ref rbac.RoleRef) ([]rbac.PolicyRule, error) {
	if ref.Kind == "ClusterRole" {
		role, err := c.client.RbacV1().ClusterRoles().Get(background, ref.Name, meta.GetOptions{})
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	role, err := c.client.RbacV1().Roles(in).Get(background, ref.Name, meta.GetOptions{})
	if err != nil {
		return nil, err
	}
	return role.Rules, nil
}
