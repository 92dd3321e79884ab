package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Namespace and path of the objects of the provider.
const (
	namespace = "vpsie-system"
	secret    = "vpsie-secret"
	objects   = "/apis/autoscaler.vpsie.com/v1alpha1/namespaces/" + namespace
)

// record is a VPSieNode.
type record struct {
	Metadata struct {
		Name       string
		Finalizers []string
		Deletion   string `json:"deletionTimestamp"`
	}
	Spec struct {
		Group    string `json:"nodeGroupName"`
		Replaces string
		Requests []struct{ Outcome string }
	}
	Status struct {
		Phase    string
		VM       string `json:"vpsieNodeIdentifier"`
		Hostname string
	}
}

// declared is a NodeGroup.
type declared struct {
	Metadata struct {
		Name       string
		Generation int64
		Deletion   string `json:"deletionTimestamp"`
	}
	Spec   struct{ MaxNodes int }
	Status struct {
		CurrentNodes, DesiredNodes, ReadyNodes int
		ObservedGeneration                     int64
		Cost                                   struct{ Hourly, Monthly string }
		Conditions                             []struct{ Type, Status, Reason, Message string }
	}
}

// prepare creates the objects that an administrator creates before the installation.
func (c *controlPlane) prepare(t *testing.T, vpsie *simulator, nodeGroups ...object) {
	t.Helper()
	c.must(t, "POST", "/api/v1/namespaces", object{"metadata": object{"name": namespace}})
	crds, err := filepath.Glob("../../deployments/crds/*.yaml")
	if err != nil || len(crds) == 0 {
		t.Fatalf("CRDs: %v %v", crds, err)
	}
	for _, crd := range crds {
		c.install(t, strings.TrimSuffix(filepath.Base(crd), ".yaml"))
	}
	c.permit(t)
	c.must(t, "POST", "/api/v1/namespaces/"+namespace+"/secrets", object{
		"metadata": object{"name": secret}, "stringData": object{"token": "simulated-token", "url": vpsie.url + "/apps/v2"},
	})
	for _, group := range nodeGroups {
		c.must(t, "POST", objects+"/nodegroups", group)
	}
}

// permit gives the provider its documented rights only.
func (c *controlPlane) permit(t *testing.T) {
	t.Helper()
	for _, file := range []string{"serviceaccount", "clusterrole", "clusterrolebinding", "role", "rolebinding"} {
		c.apply(t, documents(t, "../../deployments/base/"+file+".yaml")[0])
	}
	if c.joinable {
		files, err := filepath.Glob("../../deployments/components/self-managed/*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatalf("manifests of self-managed clusters: %v %v", files, err)
		}
		for _, file := range files {
			for _, given := range documents(t, file) {
				if given["kind"] != "Component" && given["kind"] != "Kustomization" {
					c.apply(t, given)
				}
			}
		}
	}
	var issued struct{ Status struct{ Token string } }
	request := c.must(t, "POST", "/api/v1/namespaces/"+namespace+"/serviceaccounts/vpsie-autoscaler/token", object{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": object{"expirationSeconds": 7200},
	})
	content, err := json.Marshal(request)
	if err == nil {
		err = json.Unmarshal(content, &issued)
	}
	if err != nil || issued.Status.Token == "" {
		t.Fatalf("no token for the service account: %v %v", err, request)
	}
	c.admit(t, "provider", issued.Status.Token)
}

// apply creates an object of a manifest.
func (c *controlPlane) apply(t *testing.T, given object) {
	t.Helper()
	where := "/api/v1/"
	if group := given["apiVersion"].(string); group != "v1" {
		where = "/apis/" + group + "/"
	}
	if in, ok := given["metadata"].(object)["namespace"]; ok {
		where += "namespaces/" + in.(string) + "/"
	}
	plural := strings.ToLower(given["kind"].(string)) + "s"
	if before, found := strings.CutSuffix(plural, "ys"); found {
		plural = before + "ies"
	}
	c.must(t, "POST", where+plural, given)
}

// documents returns the documents of a YAML file that are not empty.
func documents(t *testing.T, file string) []object {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []object
	for _, document := range strings.Split(string(content), "\n---\n") {
		var given object
		if err := yaml.Unmarshal([]byte(document), &given); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if given != nil {
			found = append(found, given)
		}
	}
	return found
}

// rotate changes the token in the Secret.
func (c *controlPlane) rotate(t *testing.T, token string) {
	t.Helper()
	c.patch(t, "/api/v1/namespaces/"+namespace+"/secrets/"+secret, object{"stringData": object{"token": token}})
}

func (c *controlPlane) patch(t *testing.T, where string, body object) {
	t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request := c.client.Discovery().RESTClient().Patch(types.MergePatchType).AbsPath(where)
	if err := request.Body(content).Do(background).Error(); err != nil {
		t.Fatalf("PATCH %s: %v", where, err)
	}
}

func (c *controlPlane) delete(t *testing.T, where string) {
	t.Helper()
	if _, err := c.call("DELETE", where, nil); err != nil {
		t.Fatalf("DELETE %s: %v", where, err)
	}
}

// get reads an object. It returns false if the object does not exist.
func (c *controlPlane) get(where string, into any) (bool, error) {
	content, err := c.call("GET", where, nil)
	if errors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, json.Unmarshal(content, into)
}

func (c *controlPlane) records() ([]record, error) {
	var list struct{ Items []record }
	_, err := c.get(objects+"/vpsienodes", &list)
	return list.Items, err
}

// isAwaitingVM returns true iff a machine without a VM exists only because a request of it may still create a
// VM: the reply was lost when the provider was killed.
func (r record) isAwaitingVM() bool {
	return r.Status.Phase == "Deleting" && r.Status.VM == "" && len(r.Spec.Requests) > 0 && r.Spec.Requests[0].Outcome == "Lost"
}

func (c *controlPlane) nodeGroups() ([]declared, error) {
	var list struct{ Items []declared }
	_, err := c.get(objects+"/nodegroups", &list)
	return list.Items, err
}

// kubeEvent is an event of the API server.
type kubeEvent struct {
	Type, Reason, Note string
	Regarding          struct{ Kind, Name string }
	Series             struct{ Count int }
}

func (c *controlPlane) events() ([]kubeEvent, error) {
	var list struct{ Items []kubeEvent }
	_, err := c.get("/apis/events.k8s.io/v1/namespaces/"+namespace+"/events", &list)
	return list.Items, err
}

// awaitEvent waits for an event of an object with this text in its note.
func (c *controlPlane) awaitEvent(t *testing.T, kind, name, words string) {
	t.Helper()
	c.awaitSeries(t, kind, name, words, 0)
}

// awaitSeries waits for an event with this count in its series. A single event has the count 0.
func (c *controlPlane) awaitSeries(t *testing.T, kind, name, words string, times int) {
	t.Helper()
	c.awaitEventWithin(t, kind, name, words, times, 20*time.Second)
}

// awaitEventWithin does the same with another deadline.
func (c *controlPlane) awaitEventWithin(t *testing.T, kind, name, words string, times int, deadline time.Duration) {
	t.Helper()
	await(t, fmt.Sprintf("an event of %s %s has the text %q (count %d)", kind, name, words, times), deadline, func() error {
		events, err := c.events()
		if err != nil {
			return err
		}
		notes := []string{}
		for _, event := range events {
			if event.Regarding.Kind == kind && event.Regarding.Name == name && strings.Contains(event.Note, words) && event.Series.Count >= times {
				return nil
			}
			notes = append(notes, fmt.Sprintf("%s %s: %s: %s (%d)", event.Regarding.Kind, event.Regarding.Name, event.Reason, event.Note,
				event.Series.Count))
		}
		return fmt.Errorf("events: %q", notes)
	})
}
