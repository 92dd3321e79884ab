package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// verdicts is a table of objects with the expected replies of the API server: see
// src/api/cases/nodegroups.yaml.
type verdicts struct {
	Good  object
	Cases []struct {
		Does    string
		Set     object
		Before  *object
		Refused []string
		Schema  bool
	}
}

type object = map[string]any

// TestCRDs applies the cases of src/validation/rule_tests.rs to a real API server.
func TestCRDs(t *testing.T) {
	cluster := startControlPlane(t, scratch(t), "")
	kinds := []string{"nodegroups", "vpsienodes", "autoscalerconfigs"}
	for _, kind := range kinds {
		cluster.install(t, kind)
	}
	for _, kind := range kinds {
		var table verdicts
		read(t, "../../src/api/cases/"+kind+".yaml", &table)
		for n, c := range table.Cases {
			t.Run(kind+" "+c.Does, func(t *testing.T) {
				namespace := fmt.Sprintf("%s-%d", kind, n)
				const group = "/apis/autoscaler.vpsie.com/v1alpha1/"
				where, good := group+kind, table.Good
				if kind != "autoscalerconfigs" {
					where = group + "namespaces/" + namespace + "/" + kind
					cluster.must(t, "POST", "/api/v1/namespaces", object{"metadata": object{"name": namespace}})
					good = patched(good, object{"metadata": object{"namespace": namespace}})
				} else {
					t.Cleanup(func() { _, _ = cluster.call("DELETE", where+"/default", nil) })
				}
				given := patched(good, c.Set)
				var err error
				if c.Before == nil {
					_, err = cluster.call("POST", where, given)
				} else {
					err = cluster.update(t, where, patched(good, *c.Before), given)
				}
				checkReply(t, err, c.Refused, c.Schema)
			})
		}
	}
	for _, given := range documents(t, "../../src/api/cases/original.yaml") {
		kind := strings.ToLower(given["kind"].(string)) + "s"
		cluster.must(t, "POST", "/apis/autoscaler.vpsie.com/v1alpha1/namespaces/kube-system/"+kind, given)
	}
}

func (c *controlPlane) install(t *testing.T, kind string) {
	t.Helper()
	const where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	var crd object
	read(t, path.Join("../../deployments/crds", kind+".yaml"), &crd)
	c.must(t, "POST", where, crd)
	await(t, kind+" are established", 30*time.Second, func() error {
		found, err := c.call("GET", where+"/"+kind+".autoscaler.vpsie.com", nil)
		if err == nil && !strings.Contains(string(found), `"type":"Established"`) {
			err = fmt.Errorf("not yet: %s", found)
		}
		if err == nil {
			_, err = c.call("GET", "/apis/autoscaler.vpsie.com/v1alpha1/"+kind, nil)
		}
		return err
	})
}

// update creates an object with its status, and then replaces it.
func (c *controlPlane) update(t *testing.T, where string, before, given object) error {
	t.Helper()
	where += "/" + before["metadata"].(object)["name"].(string)
	made := c.must(t, "POST", path.Dir(where), before)
	if status, ok := before["status"]; ok {
		made = c.must(t, "PUT", where+"/status", patched(made, object{"status": status}))
	}
	version := object{"resourceVersion": made["metadata"].(object)["resourceVersion"]}
	_, err := c.call("PUT", where, patched(given, object{"metadata": version}))
	return err
}

// call sends a request with strict field validation, as kubectl does.
func (c *controlPlane) call(verb, where string, body object) ([]byte, error) {
	request := c.client.Discovery().RESTClient().Verb(verb).AbsPath(where)
	if body != nil {
		content, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		request = request.Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json").Body(content)
	}
	result := request.Do(background)
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

func (c *controlPlane) must(t *testing.T, verb, where string, body object) object {
	t.Helper()
	content, err := c.call(verb, where, body)
	if err != nil {
		t.Fatalf("%s %s: %v", verb, where, err)
	}
	var reply object
	if err := json.Unmarshal(content, &reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// checkReply compares the reply of the API server with the table: exactly these rules, or the schema without
// any.
func checkReply(t *testing.T, err error, refused []string, schema bool) {
	t.Helper()
	if len(refused) == 0 && !schema {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	status, ok := err.(errors.APIStatus)
	if !ok || status.Status().Reason != meta.StatusReasonInvalid {
		t.Fatalf("not invalid: %v", err)
	}
	if schema {
		return
	}
	causes := status.Status().Details.Causes
	unsaid := slices.DeleteFunc(slices.Clone(refused), func(want string) bool {
		return slices.ContainsFunc(causes, func(cause meta.StatusCause) bool {
			field, rule, _ := strings.Cut(want, ": ")
			if strings.Contains(field, " ") || !strings.HasPrefix(field, "spec") {
				field, rule = "<nil>", want
			}
			return cause.Field == field && strings.HasSuffix(cause.Message, rule)
		})
	})
	if len(unsaid) > 0 || len(causes) != len(refused) {
		t.Fatalf("causes %+v, want %q", causes, refused)
	}
}

// patched returns a copy of the object after a merge patch (RFC 7396).
func patched(o, patch object) object {
	merged := maps.Clone(o)
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(merged, name)
		case object:
			inner, ok := merged[name].(object)
			if !ok {
				inner = object{}
			}
			merged[name] = patched(inner, value)
		default:
			merged[name] = value
		}
	}
	return merged
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
